"""Whole GRPO steps of one piece of work: seconds a step and of its phases, peak memory, learning against the machine.

W1 unless other sizes are given; LoRA r=16 on all linear layers, one update per step, beta 0. Sides: groat; with --peer
TRL, with gradient checkpointing and micro-batches of 8. The median of --measured steps in a process counts (default 2),
after --warm-up others (default 1).

  python -m benchmarks.steps --peer .peers/bin/python
  python -m benchmarks.steps --peer .peers/bin/python --prompt-tokens 512 --new-tokens 512 --measured 1
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.comparison import Case, Comparison
from benchmarks.options import common_parser, ground, run
from benchmarks.sides import step_sides
from benchmarks.sizes import add_sizes, work_of


def main(args: Sequence[str]) -> None:
    parser = common_parser("steps", __doc__)
    add_sizes(parser)
    parser.add_argument("--warm-up", type=int, default=1, help="steps of each process that are not counted (default 1)")
    with ground(parser.parse_args(args)) as found:
        name, work = work_of(found)
        job = found.job(work, num_measured=2, num_warm_up=found.options.warm_up)
        case = Case(name=name, job=job, sides=step_sides(found.peers))
        Comparison.of(found, "steps", f"steps-{name}", [case]).run()


if __name__ == "__main__":
    run(main)
