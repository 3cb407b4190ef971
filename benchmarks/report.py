"""Results in words: every case with its sides, and how far groat is from what the machine could do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.sides import GROAT

_FIGURES: Mapping[str, tuple[str, str]] = {
    "rollout_tokens_per_second": (".4g", "tokens/s"),
    "step_seconds": (".4g", "s a step"),
    "peak_gib": (".2f", "GiB"),
}
_PHASES = ("sample", "reward", "score", "learn")
_PARTS = ("layers", "adapter", "attention", "head")


def side_words(figures: Mapping[str, float]) -> str:
    """One repetition of one side."""
    found = [f"{figures[name]:{form}} {unit}" for name, (form, unit) in _FIGURES.items() if name in figures]
    return ", ".join(found)


def report(data: Mapping[str, Any]) -> Iterator[str]:
    """The lines, for results with at least one repetition of every case."""
    for case in data["cases"]:
        work = _work_words(case["work"])
        yield f"{case['case']}: {work}; medians of {len(case['repetitions'])} (lowest to highest)"
        for label, words in _case_lines(case["summary"]):
            yield f"  {label:<13} {words}"


def _case_lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, figures in summary["sides"].items():
        yield name, _side_words(figures)
        if name != GROAT:
            yield "", _ratio_words(summary["groat_against"][name])
    groat, shares = summary["sides"][GROAT], summary["shares"]
    if "decode_share" in shares:
        yield from _decode_lines(groat, shares)
    if "learn_share" in shares:
        yield from _learn_lines(groat, shares)


def _work_words(work: Mapping[str, Any]) -> str:
    prompts = work["prompt_tokens"]
    lengths = f"{min(prompts)} to {max(prompts)}" if min(prompts) != max(prompts) else f"{prompts[0]}"
    completions = work["num_prompts"] * work["group_size"]
    return f"{completions} completions of {work['new_tokens']} tokens, {len(prompts)} prompts of {lengths}"


def _side_words(figures: Mapping[str, Any]) -> str:
    words = [f"{_spread(figures[name], form)} {unit}" for name, (form, unit) in _FIGURES.items() if name in figures]
    if "rollout_tokens_per_second" in figures:
        words.append(f"{1000 / figures['rollout_tokens_per_second']['median']:.3g} ms a token")
    return ", ".join(words)


def _ratio_words(ratios: Mapping[str, Any]) -> str:
    words: list[str] = []
    if "speed" in ratios:
        words.append(f"groat is {_spread(ratios['speed'], '.2f')} times as fast")
    if "memory" in ratios:
        words.append(f"takes {_spread(ratios['memory'], '.2f')} of its peak memory")
    return ", ".join(words)


def _decode_lines(groat: Mapping[str, Any], shares: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    share = _spread(shares["decode_share"], ".0%")
    yield "decoding", f"{_milliseconds(groat['decode_step_seconds'])} ms a step, {share} of the roofline"
    yield from _roofline_lines("decode", shares)
    if "layers_alone_seconds" in groat:
        layers, head = (_milliseconds(groat[f"{name}_alone_seconds"]) for name in ("layers", "head"))
        yield "", f"products with frozen weights alone took: layers {layers} ms, head {head} ms"


def _learn_lines(groat: Mapping[str, Any], shares: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    phases = [f"{name} {groat[f'{name}_seconds']['median']:.3g} s" for name in _PHASES if f"{name}_seconds" in groat]
    yield "step", ", ".join(phases)
    rate = f"{shares['learn_operations_per_second']['median'] / 1e9:.4g} useful GFLOP/s"
    of_product = _spread(shares["learn_share_of_product_rate"], ".0%")
    yield (
        "learning",
        f"{rate}, {of_product} of the product rate, {_spread(shares['learn_share'], '.0%')} of the roofline",
    )
    yield from _roofline_lines("learn", shares)


def _roofline_lines(name: str, shares: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    num_bytes, operations = (_milliseconds(shares[f"{name}_{kind}_seconds"]) for kind in ("byte", "operation"))
    least = ", ".join(f"{part} {_milliseconds(shares[f'{name}_{part}_least_seconds'])}" for part in _PARTS)
    yield "", f"at full rate: bytes {num_bytes} ms, operations {operations} ms; by part: {least}"


def _milliseconds(spread: Mapping[str, float]) -> str:
    return f"{1000 * spread['median']:.3g}"


def _spread(spread: Mapping[str, float], form: str) -> str:
    median, low, high = (format(spread[name], form) for name in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} to {high})"
