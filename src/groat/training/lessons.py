"""Worked examples as the learner takes them: encoded, and in the order in which they are learned. No torch."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groat.config.tree import RunConfig
from groat.model.tokenizer import Tokenizer
from groat.tasks.examples import Example, Lesson, read_examples
from groat.types import Completion, FinishReason, Group, Problem, Prompt, UserError

logger = logging.getLogger("groat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What a cold start learns: groups of one completion each, by example."""

    examples: tuple[tuple[Group, ...], ...] = ()
    num_steps: int = 0

    @property
    def longest(self) -> int:
        """Tokens of the longest one; 0 where there are none."""
        return max((_num_tokens(group) for example in self.examples for group in example), default=0)

    @property
    def digest(self) -> str:
        """A fingerprint of every token and of the number of steps."""
        tokens = [
            (group.prompt.token_ids, group.completions[0].token_ids) for example in self.examples for group in example
        ]
        return hashlib.sha256(repr((self.num_steps, tokens)).encode()).hexdigest()

    def of_step(self, step: int, seed: int, batch_size: int) -> list[Group]:
        """Those of step `step` (from 1): the examples in an order of its own in every epoch; by seed and step alone."""
        count = len(self.examples)
        if (steps_an_epoch := -(-count // batch_size)) == 0:
            return []
        epoch, place = divmod(step - 1, steps_an_epoch)
        states = np.random.SeedSequence([seed, epoch], spawn_key=(2,))
        order = np.random.Generator(np.random.Philox(states)).permutation(count)
        chosen = order[place * batch_size : (place + 1) * batch_size]
        return [group for index in chosen for group in self.examples[int(index)]]


def read_lessons(config: RunConfig, tokenizer: Tokenizer, max_context: int) -> Lessons:
    """The configured examples; none where there is no cold start."""
    cold = config.cold_start
    if cold.examples is None:
        return Lessons()
    limit = min(cold.max_length, max_context)
    examples = read_examples(cold.examples, config.task.system_prompt)
    encoded = [_encoded(example, number, tokenizer) for number, example in enumerate(examples, start=1)]
    kept = tuple(example for example in encoded if all(_num_tokens(group) <= limit for group in example))
    if not kept:
        raise UserError(
            f"every example of {cold.examples} is longer than {limit} tokens: raise cold_start.max_length, up to the "
            f"model's context of {max_context}, or shorten them"
        )
    if len(kept) < len(encoded):
        logger.warning(
            "%s: left out %d of %d examples, longer than %d tokens (cold_start.max_length)",
            *(cold.examples, len(encoded) - len(kept), len(encoded), limit),
        )
    return Lessons(examples=kept, num_steps=cold.num_steps(len(kept)))


def _encoded(example: Example, number: int, tokenizer: Tokenizer) -> tuple[Group, ...]:
    return tuple(_group(lesson, f"example-{number}", tokenizer) for lesson in example)


def _group(lesson: Lesson, name: str, tokenizer: Tokenizer) -> Group:
    prompt_ids = tokenizer.encode_prompt(lesson.prompt)
    answer_ids = tokenizer.encode_answer(lesson.prompt, lesson.answer)
    if not prompt_ids or not answer_ids:
        raise UserError(f"{name} has no tokens in its {'answer' if prompt_ids else 'prompt'}: take the row out")
    return Group(
        prompt=Prompt(problem=Problem(id=name, prompt=lesson.prompt), token_ids=tuple(prompt_ids)),
        completions=(_completion(answer_ids, lesson.answer),),
    )


def _completion(token_ids: Sequence[int], text: str) -> Completion:
    """Nothing drew it: its log-probs are those of a text that is given."""
    given = (0.0,) * len(token_ids)
    return Completion(
        token_ids=tuple(token_ids),
        sampler_logprobs=given,
        policy_logprobs=given,
        text=text,
        finish_reason=FinishReason.STOP,
        policy_version=0,
    )


def _num_tokens(group: Group) -> int:
    return len(group.prompt.token_ids) + len(group.completions[0].token_ids)
