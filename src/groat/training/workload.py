"""The prompts of a task as the memory plan sees them: how long they get, and how much of them is shared. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from groat.config.tree import RunConfig
from groat.memory.workload import Workload
from groat.model.tokenizer import Tokenizer
from groat.tasks.rewards import worker_bytes
from groat.tasks.task import Task
from groat.training.lessons import Lessons
from groat.training.prompts import encode
from groat.trees import common_length
from groat.types import Problem

_LOOKED_AT = 48
"""Problems that are encoded: the longest by their bytes; of a stream, the first ones."""
_STREAM_SPARE = 1.05
"""A stream may yet bring longer prompts."""
_NO_LESSONS = Lessons()


def workload(
    config: RunConfig, task: Task, tokenizer: Tokenizer, process_bytes: int, lessons: Lessons = _NO_LESSONS
) -> Workload:
    """The longest prompts of training and evaluation, in tokens. `process_bytes`: what is held beside the model."""
    is_whole = isinstance(task.train, tuple | list)
    held_out = task.held_out[: config.evaluation.num_problems]
    problems = [*(task.train if is_whole else islice(iter(task.train), 4 * _LOOKED_AT)), *held_out]
    longest = sorted(problems, key=num_bytes, reverse=True)[:_LOOKED_AT]
    environments = None if task.environments is None else task.environments.for_template(tokenizer.template_source)
    encoded = [prompt.token_ids for prompt in encode(longest, tokenizer, environments)]
    prompt = max(map(len, encoded), default=1)
    prompt = prompt if is_whole else round(prompt * _STREAM_SPARE)
    return Workload.of(config, prompt, _shared(encoded), process_bytes, lessons.longest, worker_bytes(task.rewards))


def num_bytes(problem: Problem) -> int:
    """Of the prompt's text, with room for the marks around each turn."""
    turns = [problem.prompt] if isinstance(problem.prompt, str) else [turn["content"] for turn in problem.prompt]
    return sum(len(text.encode()) + _TURN_BYTES for text in turns)


_TURN_BYTES = 40


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all of them begin with; nothing is shared by one alone."""
    if len(prompts) < 2:
        return 0
    ordered = sorted(map(tuple, prompts))
    return common_length(ordered[0], ordered[-1])
