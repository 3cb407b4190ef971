"""Whole GRPO steps over lengths of prompts: what a long context costs to read, to sample from and to learn on.

2 prompts of random words, 8 completions of each, 128 tokens per completion; prompts of 512 to 4096 tokens
(--prompt-tokens). Sides and counting as in steps: groat; with --peer TRL, which computes a prompt once for every
completion.

  python -m benchmarks.long_context
  python -m benchmarks.long_context --peer .peers/bin/python --prompt-tokens 512,1024 --measured 1
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.comparison import Case, Comparison
from benchmarks.options import Ground, common_parser, ground, numbers, run
from benchmarks.sides import step_sides
from benchmarks.work import Work, long_questions


def main(args: Sequence[str]) -> None:
    parser = common_parser("long_context", __doc__)
    parser.add_argument("--prompts", type=int, help="prompts (default 2)")
    parser.add_argument("--group-size", type=int, help="completions of each (default 8)")
    parser.add_argument("--new-tokens", type=int, help="tokens of each completion (default 128)")
    parser.add_argument(
        "--prompt-tokens", type=numbers, help="of each prompt, with commas (default 512,1024,2048,4096)"
    )
    parser.add_argument("--warm-up", type=int, default=1, help="steps of each process that are not counted (default 1)")
    with ground(parser.parse_args(args)) as found:
        lengths = found.size("prompt_tokens", (512, 1024, 2048, 4096), (120, 180))
        cases = [_case(found, length) for length in lengths]
        Comparison.of(found, "long context", "long-context", cases).run()


def _case(found: Ground, prompt_tokens: int) -> Case:
    work = Work(
        questions=long_questions(found.size("prompts", 2, 2), prompt_tokens, found.tokenizer),
        group_size=found.size("group_size", 8, 3),
        new_tokens=found.size("new_tokens", 128, 6),
    )
    job = found.job(work, num_measured=2, num_warm_up=found.options.warm_up)
    return Case(name=f"prompts of {prompt_tokens}", job=job, sides=step_sides(found.peers))


if __name__ == "__main__":
    run(main)
