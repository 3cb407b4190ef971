"""Rollouts over sizes: how speed goes with the number of completions, or with their length.

`completions`: 4 questions, and 8 to 512 completions in all, 128 tokens each (--completions, --new-tokens). `lengths`:
64 to 2048 tokens per completion, 32 completions in all (--lengths, --completions). Sides and counting as in rollouts;
every size has its turn before any is repeated.

  python -m benchmarks.scaling completions --vllm .vllm/bin/python
  python -m benchmarks.scaling lengths --repetitions 3 --measured 1
  python -m benchmarks.scaling completions --completions 64,256      decoding against the roofline
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.comparison import Case, Comparison
from benchmarks.options import Ground, common_parser, ground, numbers, run
from benchmarks.sides import rollout_sides
from benchmarks.work import W1, Work
from groat.types import UserError


def main(args: Sequence[str]) -> None:
    parser = common_parser("scaling", __doc__)
    parser.add_argument("over", choices=("completions", "lengths"), help="what grows")
    parser.add_argument(
        "--completions", type=numbers, help="in all, divisible by 4: one number, or several with commas"
    )
    parser.add_argument("--lengths", type=numbers, help="tokens of each completion: several with commas")
    parser.add_argument("--new-tokens", type=int, help="of each completion, where their number grows (default 128)")
    with ground(parser.parse_args(args)) as found:
        works = _by_completions(found) if found.options.over == "completions" else _by_length(found)
        cases = [_case(found, name, work) for name, work in works.items()]
        Comparison.of(found, "scaling", f"scaling-{found.options.over}", cases).run()


def _by_completions(found: Ground) -> Mapping[str, Work]:
    new_tokens = found.size("new_tokens", W1.new_tokens, 6)
    counts = found.size("completions", (8, 32, 128, 512), (8, 12))
    return {f"{count} completions": _work(count, new_tokens) for count in counts}


def _by_length(found: Ground) -> Mapping[str, Work]:
    counts = found.size("completions", (32,), (8,))
    if len(counts) != 1:
        raise UserError(f"--completions must be one number where lengths grow, got {len(counts)}")
    lengths = found.size("lengths", (64, 128, 512, 2048), (5, 9))
    return {f"{length} tokens": _work(counts[0], length) for length in lengths}


def _work(num_completions: int, new_tokens: int) -> Work:
    group_size, rest = divmod(num_completions, len(W1.questions))
    if rest or group_size < 2:
        raise UserError(f"--completions must be divisible by {len(W1.questions)} and at least 8, got {num_completions}")
    return Work(questions=W1.questions, group_size=group_size, new_tokens=new_tokens)


def _case(found: Ground, name: str, work: Work) -> Case:
    job = found.job(work, num_measured=2)
    return Case(name=name, job=job, sides=rollout_sides(found.peers, job, found.spec))


if __name__ == "__main__":
    run(main)
