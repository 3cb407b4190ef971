"""Completions of several turns: the model writes, its environment answers, and so on.

Turns are drawn in rounds. In each, what every unfinished completion holds so far is the prompt of its next turn, so
that the sampler shares what they have in common; then the environments of those that stopped are asked, side by side.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np

from groat.model.lora import Adapter
from groat.model.tokenizer import Tokenizer
from groat.sampling.base import Progress, Sampler, SamplingParams, no_progress
from groat.tasks.environments import Conversation, Environments, Reply
from groat.types import Completion, FinishReason, Group, Prompt, Span, Turn, UserError

_UNREADABLE = "(the result cannot be shown)"


class DialogueSampler:
    """A Sampler of conversations, made of one of single turns.

    `max_completion_length` counts for a whole completion, replies included: one that leaves the model no token to
    answer with is left out, and the completion is cut there. `min_completion_length` is for the first turn.
    """

    def __init__(self, sampler: Sampler, tokenizer: Tokenizer, environments: Environments) -> None:
        """UserError where the chat template does not take the environments' replies."""
        self._sampler = sampler
        self._tokenizer = tokenizer
        self._environments = environments
        _check_template(tokenizer, environments)

    def awake(self) -> AbstractContextManager[None]:
        return self._sampler.awake()

    def sample(
        self,
        prompts: Sequence[Prompt],
        adapter: Adapter | None,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress = no_progress,
    ) -> list[Group]:
        settled = _Settled(progress, self._environments.max_turns)
        groups = self._sampler.sample(
            prompts, adapter, params, seeds, settled.in_round(1, params.max_completion_length)
        )
        talks = [
            _Talk(group.prompt, self._environments.begin(group.prompt.problem), seed, index, completion)
            for group, seed in zip(groups, seeds, strict=True)
            for index, completion in enumerate(group.completions)
        ]
        for round_ in range(2, self._environments.max_turns + 1):
            going_on = self._answered(talks, params)
            if not going_on:
                break
            self._draw(going_on, adapter, params, round_, settled)
        done = iter([talk.completion() for talk in talks])
        settled.finish(len(talks) * params.max_completion_length)
        return [replace(group, completions=tuple(next(done) for _ in group.completions)) for group in groups]

    def _answered(self, talks: Sequence[_Talk], params: SamplingParams) -> list[_Talk]:
        """Ask the environments; the conversations that have room for another turn."""
        asking = [talk for talk in talks if talk.is_open]
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="groat tools") as threads:
            replies = list(threads.map(_Talk.ask, asking))
        for talk, reply in zip(asking, replies, strict=True):
            if reply is None:
                talk.is_open = False
            else:
                talk.take(*self._encoded(reply, talk), params.most_tokens(talk.prompt))
        return [talk for talk in asking if talk.is_open]

    def _encoded(self, reply: Reply, talk: _Talk) -> tuple[Reply, list[int]]:
        """The reply as the model reads it, and its tokens."""
        is_turn_ended = talk.token_ids[-1] in self._tokenizer.stop_token_ids

        def encoded(reply: Reply) -> tuple[Reply, list[int]]:
            messages = [{"role": turn.role, "content": turn.content} for turn in reply.turns]
            return reply, self._tokenizer.encode_reply(messages, is_turn_ended=is_turn_ended)

        try:
            return encoded(reply)
        except UserError:  # a text that is not to be told from control tokens, or that the template refuses
            turns = (replace(turn, content=_UNREADABLE, has_failed=True) for turn in reply.turns)
            return encoded(replace(reply, turns=tuple(turns)))

    def _draw(
        self, talks: Sequence[_Talk], adapter: Adapter | None, params: SamplingParams, round_: int, settled: _Settled
    ) -> None:
        prompts = [talk.next_prompt(params.most_tokens(talk.prompt)) for talk in talks]
        longest = max(prompt.most_tokens or 0 for prompt in prompts)
        params = replace(params, num_generations=1, max_completion_length=longest, min_completion_length=0)
        seeds = [_seed(talk.seed, talk.index, round_) for talk in talks]
        groups = self._sampler.sample(prompts, adapter, params, seeds, settled.in_round(round_, longest))
        for talk, group in zip(talks, groups, strict=True):
            talk.go_on(group.completions[0])


def dialogue_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Turns of the model and calls of tools in a completion, and the share of replies that told of a mistake; nothing
    where completions are no conversations."""
    talks = [completion.turns for group in groups for completion in group.completions if completion.turns]
    if not talks:
        return {}
    replies = [turn for turns in talks for turn in turns if not turn.is_models]
    calls = sum(len(turn.calls) for turns in talks for turn in turns)
    return {
        "completions/mean_turns": sum(turn.is_models for turns in talks for turn in turns) / len(talks),
        "tools/call_frequency": calls / len(talks),
        "tools/failure_frequency": sum(turn.has_failed for turn in replies) / max(1, len(replies)),
    }


@dataclass(slots=True)
class _Talk:
    """A completion on its way, turn by turn."""

    prompt: Prompt
    environment: Conversation
    seed: int
    index: int
    latest: Completion
    """The model's latest turn."""
    token_ids: tuple[int, ...] = field(init=False)
    sampler_logprobs: tuple[float, ...] = field(init=False)
    policy_logprobs: tuple[float, ...] = field(init=False)
    replies: list[Span] = field(default_factory=list[Span], init=False)
    turns: list[Turn] = field(init=False)
    finish_reason: FinishReason = field(init=False)
    is_open: bool = field(init=False)
    """The latest turn has ended by itself: it may be answered, or has been."""

    def __post_init__(self) -> None:
        self.token_ids = self.latest.token_ids
        self.sampler_logprobs, self.policy_logprobs = self.latest.sampler_logprobs, self.latest.policy_logprobs
        self.turns = []
        self._end_turn()

    def ask(self) -> Reply | None:
        reply = self.environment.reply(self.latest.text)
        return Reply(turns=(Turn(role="user", content=reply),)) if isinstance(reply, str) else reply

    def take(self, reply: Reply, token_ids: Sequence[int], most_tokens: int) -> None:
        """The reply's tokens, unless they leave no room."""
        self.turns[-1] = replace(self.turns[-1], calls=reply.calls)
        start, end = len(self.token_ids), len(self.token_ids) + len(token_ids)
        if end >= most_tokens:
            self.finish_reason, self.is_open = FinishReason.LENGTH, False
            return
        self.token_ids += tuple(token_ids)
        self.replies.append(Span(start, end))
        self.turns.extend(reply.turns)

    def next_prompt(self, most_tokens: int) -> Prompt:
        return Prompt(
            problem=self.prompt.problem,
            token_ids=self.prompt.token_ids + self.token_ids,
            most_tokens=most_tokens - len(self.token_ids),
        )

    def go_on(self, turn: Completion) -> None:
        self.latest = turn
        self.token_ids += turn.token_ids
        self.sampler_logprobs += turn.sampler_logprobs
        self.policy_logprobs += turn.policy_logprobs
        self._end_turn()

    def completion(self) -> Completion:
        return replace(
            self.latest,
            token_ids=self.token_ids,
            sampler_logprobs=self.sampler_logprobs,
            policy_logprobs=self.policy_logprobs,
            finish_reason=self.finish_reason,
            replies=tuple(self.replies),
            turns=tuple(self.turns),
            environment=self.environment.environment,
        )

    def _end_turn(self) -> None:
        self.turns.append(Turn(role="assistant", content=self.latest.text))
        self.finish_reason = self.latest.finish_reason
        self.is_open = self.finish_reason is FinishReason.STOP


class _Settled:
    """Passes on how many tokens are settled, every round having an equal share of a completion."""

    def __init__(self, progress: Progress, num_rounds: int) -> None:
        self._progress = progress
        self._num_rounds = num_rounds
        self._whole_length = 1
        self._sum = 0.0
        self._told = 0

    def in_round(self, round_: int, longest: int) -> Progress:
        """For a round in which the sampler counts up to `longest` for every sequence."""
        if round_ == 1:
            self._whole_length = longest
        share = self._whole_length / self._num_rounds / longest
        return lambda settled: self._tell(settled * share)

    def finish(self, total: int) -> None:
        """Whatever is not settled by now was never needed."""
        self._progress(total - self._told)

    def _tell(self, settled: float) -> None:
        self._sum += settled
        news = int(self._sum) - self._told
        self._told += news
        self._progress(news)


def _seed(seed: int, index: int, round_: int) -> int:
    """Of a completion's turn."""
    return int(np.random.SeedSequence([seed, index, round_]).generate_state(1, np.uint64)[0])


def _check_template(tokenizer: Tokenizer, environments: Environments) -> None:
    try:
        tokenizer.encode_reply(environments.example(), is_turn_ended=True)
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}. Turns of tools have to be in the chat template: set task.tool_format plain, or "
            "give model.chat_template another one"
        ) from error
