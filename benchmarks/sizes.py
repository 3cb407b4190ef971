"""The sizes of one piece of work, as options; W1's where nothing is said."""

from __future__ import annotations

import argparse

from benchmarks.options import Ground
from benchmarks.work import W1, Work, long_questions, short_questions

_SMALL = Work(questions=W1.questions[:2], group_size=3, new_tokens=6)


def add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompts", type=int, help="questions (default 4)")
    parser.add_argument("--group-size", type=int, help="completions of each (default 8)")
    parser.add_argument("--new-tokens", type=int, help="tokens of each completion (default 128)")
    parser.add_argument(
        "--prompt-tokens", type=int, help="of each prompt, random words (default: W1's questions, 45 tokens or so)"
    )


def work_of(ground: Ground) -> tuple[str, Work]:
    """The work that the options ask for, with a name for it."""
    prompt_tokens = ground.options.prompt_tokens
    num_prompts = ground.size("prompts", len(W1.questions), len(_SMALL.questions))
    work = Work(
        questions=short_questions(num_prompts)
        if prompt_tokens is None
        else long_questions(num_prompts, prompt_tokens, ground.tokenizer),
        group_size=ground.size("group_size", W1.group_size, _SMALL.group_size),
        new_tokens=ground.size("new_tokens", W1.new_tokens, _SMALL.new_tokens),
    )
    prompts = f"-prompts-of-{prompt_tokens}" if prompt_tokens else ""
    name = f"{num_prompts}x{work.group_size}x{work.new_tokens}{prompts}"
    return "w1" if work == W1 else name, work
