"""How well a policy does on held-out problems, with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from groat.model.lora import Adapter
from groat.sampling.base import Sampler, SamplingParams
from groat.tasks.task import Judgement
from groat.tracking.rows import AnswerRow, Evaluation
from groat.training.phases import Phases
from groat.types import Group, Problem, Prompt

Compare = Callable[[Sequence[Problem], Sequence[str]], list[float]]
"""How well each text does against the one before training, from 0 to 1, given the problems and the texts."""
_Z = 1.959963984540054
"""Standard normal quantile of a two-sided 95% interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Figures by name (`avg@4`, `pass@4`, `greedy`), and the greedy answers."""

    figures: dict[str, Evaluation]
    answers: list[AnswerRow]


def evaluate(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    adapter: Adapter | None,
    params: SamplingParams,
    num_samples: int,
    is_correct: Judgement | None,
    phases: Phases,
    compare: Compare | None = None,
) -> EvaluationResult:
    """`num_samples` completions per prompt at the sampling temperature, and a greedy one; where only `compare` tells
    how good they are, the greedy one alone.

    `compare` adds the figure `win_rate`. The random numbers depend on the place of a prompt only, so that policies are
    compared on equal draws.
    """
    seeds = range(len(prompts))
    sampled_params = replace(params, num_generations=num_samples)
    greedy_params = replace(params, num_generations=1, temperature=0.0)
    total = len(prompts) * (num_samples * (is_correct is not None) + 1) * params.max_completion_length
    with phases.phase("evaluate", total, "tokens settled", interruptible=True) as done, sampler.awake():
        sampled = [] if is_correct is None else sampler.sample(prompts, adapter, sampled_params, seeds, done)
        greedy = sampler.sample(prompts, adapter, greedy_params, seeds, done)
    won_P = (
        [] if compare is None else compare([g.prompt.problem for g in greedy], [g.completions[0].text for g in greedy])
    )
    figures = {} if compare is None else {"win_rate": mean_of_means(won_P)}
    if is_correct is None:
        answers = [_answer(group, "judged", won > 0.5) for group, won in zip(greedy, won_P, strict=True)]
        return EvaluationResult(figures=figures, answers=answers)
    right_PK = [[is_correct(g.prompt.problem, c.text, c.turns, c.environment) for c in g.completions] for g in sampled]
    right_P = [is_correct(g.prompt.problem, c.text, c.turns, c.environment) for g in greedy for c in g.completions]
    return EvaluationResult(
        figures={
            f"avg@{num_samples}": mean_of_means([sum(right) / len(right) for right in right_PK]),
            f"pass@{num_samples}": proportion(sum(map(any, right_PK)), len(right_PK)),
            "greedy": proportion(sum(right_P), len(right_P)),
            **figures,
        },
        answers=[_answer(group, "greedy", right) for group, right in zip(greedy, right_P, strict=True)],
    )


def proportion(right: int, problems: int) -> Evaluation:
    """Wilson's interval (JASA 22, 1927): sound for small counts and near 0 and 1."""
    share = right / problems
    centre = (share + _Z**2 / (2 * problems)) / (1 + _Z**2 / problems)
    half = _Z * math.sqrt(share * (1 - share) / problems + _Z**2 / (4 * problems**2)) / (1 + _Z**2 / problems)
    return Evaluation(share, max(0.0, centre - half), min(1.0, centre + half), problems)


def mean_of_means(shares: Sequence[float]) -> Evaluation:
    """Normal interval over problems: the answers to one problem are not independent of each other."""
    problems = len(shares)
    mean = math.fsum(shares) / problems
    variance = math.fsum((share - mean) ** 2 for share in shares) / max(1, problems - 1)
    half = _Z * math.sqrt(variance / problems)
    return Evaluation(mean, max(0.0, mean - half), min(1.0, mean + half), problems)


def _answer(group: Group, kind: str, correct: bool) -> AnswerRow:
    problem = group.prompt.problem
    question = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"]
    return AnswerRow(
        problem_id=problem.id,
        kind=kind,
        prompt_text=question,
        text=group.completions[0].text,
        correct=correct,
        reference=str(problem.columns.get("answer", "")),
    )
