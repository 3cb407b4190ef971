"""Rollouts of one piece of work: tokens per second, peak memory, and decoding against the machine's roofline.

W1 unless other sizes are given: 4 questions, 8 completions of each, 128 tokens per completion. Sides: groat; with
--peer transformers' generate; with --vllm vLLM on the CPU. The fastest of --measured times in a process counts
(default 2), for every side.

  python -m benchmarks.rollouts --peer .peers/bin/python --vllm .vllm/bin/python
  python -m benchmarks.rollouts --group-size 64               decode 256 sequences
  python -m benchmarks.rollouts --prompt-tokens 512 --new-tokens 512
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.comparison import Case, Comparison
from benchmarks.options import common_parser, ground, run
from benchmarks.sides import rollout_sides
from benchmarks.sizes import add_sizes, work_of


def main(args: Sequence[str]) -> None:
    parser = common_parser("rollouts", __doc__)
    add_sizes(parser)
    with ground(parser.parse_args(args)) as found:
        name, work = work_of(found)
        job = found.job(work, num_measured=2)
        case = Case(name=name, job=job, sides=rollout_sides(found.peers, job, found.spec))
        Comparison.of(found, "rollouts", f"rollouts-{name}", [case]).run()


if __name__ == "__main__":
    run(main)
