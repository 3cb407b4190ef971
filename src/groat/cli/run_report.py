"""What `groat runs show` prints of one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from groat.cli.run_summary import RunSummary
from groat.config.algorithms import AlgorithmConfig
from groat.config.tree import RunConfig
from groat.tasks.reflection import PREFIX
from groat.tracking.before_after import evaluation_table
from groat.tracking.printable import one_line, printable
from groat.tracking.reader import RunReader
from groat.tracking.rows import Event, RolloutRow
from groat.tracking.wording import duration, percent, short_number, shortened
from groat.types import Turn

_NUM_TABLE_STEPS = 15
_NUM_EVENTS = 10
_PROMPT_CHARACTERS = 300
_ANSWER_CHARACTERS = 1200
_TABLE_METRICS = {
    "reward": "reward",
    "reward_std": "±std",
    "rewards/correct_answer/mean": "correct",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "clipped",
    "frac_reward_zero_std": "zero-std",
    "loss": "loss",
    "grad_norm": "grad",
    "kl": "kl",
    "entropy": "entropy",
}
_AHA = {
    "phrases": "phrases (heuristic)",
    "share_with_phrases": "in",
    "revisions": "changed answers (heuristic)",
    "share_with_revisions": "in",
}
_SHARES = {"rewards/correct_answer/mean", "completions/clipped_ratio", "frac_reward_zero_std"}


def run_report(summary: RunSummary, config: RunConfig, reader: RunReader) -> Iterator[RenderableType]:
    yield Text.assemble((printable(summary.path), "bold"), f"  {_state_words(summary)}")
    yield _config_table(config)
    rewards = [value for _, value in reader.metrics("reward")]
    if rewards:
        yield Text.assemble("\nreward  ", (sparkline(rewards, 60), "cyan"), f"  {_reward_words(summary)}")
        yield _metrics_table(reader)
        yield from _aha_view(reader)
    primed = reader.metrics("cold_start/loss")
    if primed:
        yield _cold_start_words(primed, reader.metrics("cold_start/token_accuracy"))
    evaluations = reader.evaluations()
    for at, results in evaluations.items():
        yield evaluation_table(_moment(at, min(evaluations)), results)
    events = reader.events()
    if events:
        yield Text(f"\nEvents (the last {_NUM_EVENTS} of {len(events)})" if len(events) > _NUM_EVENTS else "\nEvents")
        for event in events[-_NUM_EVENTS:]:
            yield _event_line(event)


def _cold_start_words(losses: Sequence[tuple[int, float]], accuracies: Sequence[tuple[int, float]]) -> Text:
    first, last = losses[0][1], losses[-1][1]
    return Text.assemble(
        "\ncold start  ",
        (sparkline([value for _, value in losses], 60), "cyan"),
        f"  {len(losses)} steps, loss {short_number(first)} → {short_number(last)}, "
        f"tokens right {percent(accuracies[0][1])} → {percent(accuracies[-1][1])}",
    )


def _moment(at: int, first: int) -> str:
    if at > 0:
        return f"After step {at}"
    return "Before training" if at == first else "After the cold start"


def _state_words(summary: RunSummary) -> str:
    words = f"{summary.state}, {summary.steps} of {summary.max_steps or '?'} steps"
    if summary.seconds is not None:
        words += f", {duration(summary.seconds)}"
    if summary.peak_gib is not None:
        words += f", peak {summary.peak_gib:.2f} GiB"
    return words + (f". Go on: groat resume {summary.path}" if summary.state == "interrupted" else "")


def _reward_words(summary: RunSummary) -> str:
    return f"{summary.first_reward:.3f} → {summary.last_reward:.3f}"


def _config_table(config: RunConfig) -> Table:
    training, sampling = config.training, config.sampling
    grid = Table.grid(padding=(0, 2))
    for name, value in {
        "model": f"{config.model.name}, LoRA rank {config.lora.r}, budget {config.memory.budget or 'not set'}",
        "task": config.task.name,
        "algorithm": _algorithm_words(config.algorithm),
        "step": f"{config.prompts_per_step} prompts x {sampling.num_generations} completions of at most "
        f"{sampling.max_completion_length} tokens, temperature {sampling.temperature:g}",
        "training": f"learning rate {training.learning_rate:g} {training.lr_scheduler_type}, seed {config.seed}",
    }.items():
        grid.add_row(Text(name, style="dim"), Text(printable(value)))
    return grid


def _algorithm_words(algorithm: AlgorithmConfig) -> str:
    options = asdict(algorithm)
    words = [f"loss {options['loss_type']}"] if "loss_type" in options else []
    words += [f"{name} {options[name]:g}" for name in ("beta", "kl_coef") if name in options]
    return ", ".join([algorithm.kind, *words])


def _metrics_table(reader: RunReader) -> Table:
    series = {name: dict(reader.metrics(name)) for name in _TABLE_METRICS}
    series = {name: values for name, values in series.items() if values}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title in ("step", *(_TABLE_METRICS[name] for name in series)):
        table.add_column(title, justify="right")
    for step in thinned(list(series["reward"]), _NUM_TABLE_STEPS):
        table.add_row(str(step), *(_metric_cell(name, values.get(step)) for name, values in series.items()))
    return table


def _aha_view(reader: RunReader) -> Iterator[RenderableType]:
    """Second thoughts over the steps, as far as words show them."""
    series = {name: dict(reader.metrics(f"{PREFIX}{name}")) for name in _AHA}
    if not series["phrases"]:
        return
    yield Text.assemble(
        ("Aha view", "bold"),
        "  a heuristic: it counts phrases such as “wait” or “let me check”, and answers that change, not thoughts",
    )
    yield Text.assemble("phrases per completion  ", (sparkline(list(series["phrases"].values()), 60), "cyan"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title in ("step", *_AHA.values()):
        table.add_column(title, justify="right")
    for step in thinned(list(series["phrases"]), _NUM_TABLE_STEPS):
        table.add_row(str(step), *(_aha_cell(name, values.get(step)) for name, values in series.items()))
    yield table


def _aha_cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return percent(value) if name.startswith("share") else short_number(value)


def _metric_cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name in _SHARES:
        return percent(value)
    return f"{value:.3f}" if name.startswith("reward") else short_number(value)


def _event_line(event: Event) -> Text:
    return Text.assemble(
        (f"  step {event.step:>4}  ", "dim"), (one_line(event.kind), "yellow"), f"  {one_line(event.message)}"
    )


def rollout_report(step: int, rollouts: Sequence[RolloutRow], num: int) -> Iterator[RenderableType]:
    shown = best_and_worst(rollouts, num)
    if not shown:
        return
    yield Text(f"\nStep {step}: {len(shown)} of {len(rollouts)} completions, best and worst of a prompt", style="bold")
    prompt = None
    for row in shown:
        if row.group_index != prompt:
            prompt = row.group_index
            yield Text(f"\nProblem {one_line(row.problem_id)}", style="bold")
            yield Text(printable(row.prompt_text)[-_PROMPT_CHARACTERS:].strip(), style="dim")
        yield _rollout_heading(row)
        yield from _rollout_texts(row)


def _rollout_texts(row: RolloutRow) -> Iterator[Text]:
    """What the model wrote; between its turns, dim and marked, what its environment did."""
    for turn in row.turns or (Turn(role="assistant", content=row.text),):
        text = shortened(printable(turn.content).strip(), _ANSWER_CHARACTERS) or "(nothing)"
        if turn.is_models:
            yield Text(text)
        else:
            yield Text("\n".join(f"   │ {line}" for line in f"{one_line(turn.role)}: {text}".split("\n")), style="dim")


def _rollout_heading(row: RolloutRow) -> Text:
    parts = ", ".join(f"{one_line(name)} {_part(value)}" for name, value in row.parts.items())
    return Text.assemble(
        (f"\n── reward {row.reward:.3f}  advantage {row.advantage:+.3f}", "green" if row.advantage > 0 else "red"),
        (f"  {row.num_tokens} tokens, {one_line(row.finish_reason)}" + (f"  ({parts})" if parts else ""), "dim"),
        ("".join(f"\n   {one_line(name)}: {one_line(why)}" for name, why in row.reasons.items()), "dim"),
    )


def _part(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g}"


def best_and_worst(rollouts: Sequence[RolloutRow], num: int) -> list[RolloutRow]:
    """`num` completions: best and worst of each prompt in turn, prompts whose rewards differ most first."""
    groups: dict[int, list[RolloutRow]] = {}
    for row in rollouts:
        groups.setdefault(row.group_index, []).append(row)
    ranked = [sorted(group, key=lambda row: -row.reward) for group in groups.values()]
    ranked.sort(key=lambda group: group[-1].reward - group[0].reward)
    chosen = [row for group in ranked for row in ([group[0], group[-1]] if len(group) > 1 else group)]
    return chosen[:num]


def thinned(steps: list[int], num: int) -> list[int]:
    """At most `num` of the steps, evenly spread, the first and the last among them."""
    if len(steps) <= num:
        return steps
    return [steps[round(index * (len(steps) - 1) / (num - 1))] for index in range(num)]


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as a row of at most `width` bars, each the mean of its share; what is not a number is a space."""
    num = min(width, len(values))
    chunks = [values[index * len(values) // num : (index + 1) * len(values) // num] for index in range(num)]
    means = [sum(chunk) / len(chunk) for chunk in chunks]
    finite = [mean for mean in means if abs(mean) < float("inf")]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    bars = "▁▂▃▄▅▆▇█"
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(bars[round((mean - low) * scale)] if abs(mean) < float("inf") else " " for mean in means)
