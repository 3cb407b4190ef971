"""The native sampler: continuous batching over groups whose prompts are computed and stored once.

Left out so far: paging of the completions' keys and values, speculative drafts.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from groat.kernels.ops import product
from groat.memory.guard import Guard
from groat.memory.sizes import forward_bytes, kv_bytes
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.model.tokenizer import Tokenizer
from groat.sampling.base import Progress, SamplingParams, no_progress
from groat.sampling.native.attention import LiveRow
from groat.sampling.native.cache import SuffixArena
from groat.sampling.native.decode import Newest, decode_with
from groat.sampling.native.draw import Barred, draw
from groat.sampling.native.prefill import Prefixes
from groat.types import Completion, FinishReason, Group, Prompt, UserError


@dataclass(slots=True, kw_only=True, eq=False)
class _Sequence:
    """A completion on its way."""

    prompt: int
    index: int
    uniforms: np.ndarray
    slot: int | None = None
    token_ids: list[int] = field(default_factory=list[int])
    sampler_logprobs: list[float] = field(default_factory=list[float])
    policy_logprobs: list[float] = field(default_factory=list[float])
    finish_reason: FinishReason | None = None


_TOKENS_BETWEEN_LOOKS = 16
"""Tokens drawn between two looks at the memory."""


def _begun_again(sequence: _Sequence) -> _Sequence:
    """The same completion from its first token: equal numbers draw equal tokens."""
    return _Sequence(prompt=sequence.prompt, index=sequence.index, uniforms=sequence.uniforms)


class NativeSampler:
    """Samples from a Decoder; keys and values exist only while awake."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        *,
        max_concurrent: int,
        prefill_tokens: int = 2048,
        guard: Guard | None = None,
    ) -> None:
        """`prefill_tokens` prompt tokens are computed in one forward; the guard may let fewer sequences in."""
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._max_concurrent = max_concurrent
        self._prefill_tokens = prefill_tokens
        self._guard = Guard() if guard is None else guard
        self._is_awake = False

    @contextmanager
    def awake(self) -> Generator[None]:
        self._is_awake = True
        try:
            yield
        finally:
            self._is_awake = False

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Prompt],
        adapter: Adapter | None,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress = no_progress,
    ) -> list[Group]:
        assert self._is_awake, "sample outside of `with sampler.awake()`"
        for prompt in prompts:
            self._check_length(prompt, params)
        prefixes = Prefixes(self._decoder, adapter, [prompt.token_ids for prompt in prompts], self._prefill_tokens)
        rollout = _Rollout(
            self._decoder,
            self._tokenizer,
            prompts,
            prefixes,
            adapter,
            params,
            seeds,
            self._max_concurrent,
            self._guard,
        )
        while rollout.is_unfinished:
            progress(rollout.advance())
        return rollout.groups()

    def _check_length(self, prompt: Prompt, params: SamplingParams) -> None:
        room = self._decoder.spec.max_context - len(prompt.token_ids)
        longest = params.most_tokens(prompt)
        if not prompt.token_ids:
            raise UserError(f"problem {prompt.problem.id}: the prompt has no tokens")
        if room < longest:
            raise UserError(
                f"problem {prompt.problem.id}: the prompt has {len(prompt.token_ids)} tokens, and with "
                f"sampling.max_completion_length {longest} it would exceed the model's context of "
                f"{self._decoder.spec.max_context} tokens; shorten the prompt or the completions"
            )


class _Rollout:
    """One call to `sample`: which completions wait, which are live, which are done."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        prefixes: Prefixes,
        adapter: Adapter | None,
        params: SamplingParams,
        seeds: Sequence[int],
        max_concurrent: int,
        guard: Guard,
    ) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._adapter = adapter
        self._params = params
        self._max_concurrent = max_concurrent
        self._guard = guard
        self._kv_bytes = kv_bytes(decoder.spec, decoder.weights.kv_storage)
        self._num_advances = 0
        self._prefixes = prefixes
        self._decode_newest = decode_with(decoder, adapter)
        weights = decoder.weights
        self._arena = SuffixArena(decoder.spec, params.max_completion_length, weights.kv_storage, weights.dtype)
        self._waiting = [
            _Sequence(prompt=prompt, index=index, uniforms=_uniforms(seeds[prompt], index, params))
            for prompt in sorted(range(len(prompts)), key=self._prefixes.rank)
            for index in range(params.num_generations)
        ]
        self._waiting.reverse()
        self._unfinished = [params.num_generations] * len(prompts)
        self._live: list[_Sequence] = []
        self._done: list[_Sequence] = []
        self._hidden_SH = torch.empty(0, decoder.spec.hidden_size, dtype=decoder.weights.dtype)

    @property
    def is_unfinished(self) -> bool:
        return bool(self._waiting or self._live)

    def advance(self) -> int:
        """Let sequences in, draw a token for each live one, and run the model on those that go on.

        The tokens that are settled by that; fewer than none where sequences were paused, which are drawn again.
        """
        self._admit()
        drawn = len(self._live)
        self._draw()
        staying = [row for row, sequence in enumerate(self._live) if sequence.finish_reason is None]
        finished = [sequence for sequence in self._live if sequence.finish_reason is not None]
        self._retire(finished)
        self._live = [self._live[row] for row in staying]
        forgotten = self._pause_if_short()
        self._hidden_SH = self._decode() if self._live else self._hidden_SH[:0]
        spared = sum(self._params.max_completion_length - len(sequence.token_ids) for sequence in finished)
        return drawn + spared - forgotten

    def groups(self) -> list[Group]:
        by_prompt: list[list[_Sequence]] = [[] for _ in self._prompts]
        for sequence in sorted(self._done, key=lambda sequence: sequence.index):
            by_prompt[sequence.prompt].append(sequence)
        return [
            Group(prompt=prompt, completions=tuple(self._completion(sequence) for sequence in sequences))
            for prompt, sequences in zip(self._prompts, by_prompt, strict=True)
        ]

    def _admit(self) -> None:
        free = self._max_concurrent - len(self._live)
        # Entering costs a rearrangement of the arena, so sequences enter a quarter of the arena at a time.
        if not self._waiting or (free < min(len(self._waiting), max(1, self._max_concurrent // 4))):
            return
        entering = [self._waiting.pop() for _ in range(self._affordable(min(free, len(self._waiting))))]
        if not entering:
            return
        self._prefixes.compute(sorted({sequence.prompt for sequence in entering}))
        first_SH = torch.stack([self._prefixes.last_hidden(sequence.prompt) for sequence in entering])
        self._hidden_SH = torch.cat([self._hidden_SH, first_SH])
        self._live.extend(entering)

    def _affordable(self, wanted: int) -> int:
        """How many of `wanted` sequences there is memory for, whole: those under way keep what they will yet need."""
        spec, longest = self._decoder.spec, self._params.max_completion_length
        each = self._kv_bytes * longest + forward_bytes(spec) + 4 * spec.vocab_size
        promised = self._kv_bytes * sum(longest - len(sequence.token_ids) for sequence in self._live)
        room = self._guard.room() - promised
        if room >= wanted * each:
            return wanted
        if room < each and not self._live:
            raise self._guard.refuse(f"one sequence of {longest} tokens", each)
        fitting = max(0, int(room / each))
        self._max_concurrent = len(self._live) + fitting
        self._guard.intervene(f"no more than {self._max_concurrent} sequences side by side, for want of memory")
        return fitting

    def _pause_if_short(self) -> int:
        """Every few tokens: where memory runs out all the same, half of the sequences wait and are drawn again later,
        token for token. The tokens that are forgotten by that."""
        self._num_advances += 1
        growth = self._kv_bytes * _TOKENS_BETWEEN_LOOKS * len(self._live)
        if self._num_advances % _TOKENS_BETWEEN_LOOKS or len(self._live) < 2 or self._guard.room() >= growth:
            return 0
        by_length = sorted(self._live, key=lambda sequence: len(sequence.token_ids))
        paused = by_length[: len(by_length) // 2]
        self._live = [sequence for sequence in self._live if sequence not in paused]
        self._waiting.extend(_begun_again(sequence) for sequence in reversed(paused))
        self._max_concurrent = len(self._live)
        self._guard.intervene(f"{len(paused)} sequences paused, for want of memory")
        return sum(len(sequence.token_ids) for sequence in paused)

    def _draw(self) -> None:
        params, live = self._params, self._live
        rows_SH = self._decoder.final_norm(self._hidden_SH)
        logits_SV = product(rows_SH, self._decoder.weights.head_VH)
        places = [len(sequence.token_ids) for sequence in live]
        too_short = [row for row, place in enumerate(places) if place < params.min_completion_length]
        drawn = draw(
            logits_SV,
            params,
            torch.tensor([sequence.uniforms[place] for sequence, place in zip(live, places, strict=True)]),
            [self._seen(sequence) for sequence in live] if params.repetition_penalty != 1 else None,
            Barred(too_short, sorted(self._tokenizer.stop_token_ids)),
        )
        columns = (drawn.token_ids_S.tolist(), drawn.sampler_logprobs_S.tolist(), drawn.policy_logprobs_S.tolist())
        for sequence, token_id, sampler_logprob, policy_logprob in zip(live, *columns, strict=True):
            sequence.token_ids.append(token_id)
            sequence.sampler_logprobs.append(sampler_logprob)
            sequence.policy_logprobs.append(policy_logprob)
            sequence.finish_reason = self._finish_reason(sequence)

    def _seen(self, sequence: _Sequence) -> torch.Tensor:
        return torch.tensor(sorted({*self._prompts[sequence.prompt].token_ids, *sequence.token_ids}))

    def _finish_reason(self, sequence: _Sequence) -> FinishReason | None:
        if sequence.token_ids[-1] in self._tokenizer.stop_token_ids:
            return FinishReason.STOP
        if self._params.stop and self._ends_with_stop_string(sequence):
            return FinishReason.STOP
        longest = self._params.most_tokens(self._prompts[sequence.prompt])
        return FinishReason.LENGTH if len(sequence.token_ids) >= longest else None

    def _ends_with_stop_string(self, sequence: _Sequence) -> bool:
        # Any stop string lies within as many tokens as it has bytes; the last one may complete it.
        longest = max(len(stop.encode()) for stop in self._params.stop)
        tail = self._tokenizer.decode(sequence.token_ids[-longest - 1 :])
        return any(stop in tail for stop in self._params.stop)

    def _retire(self, finished: Sequence[_Sequence]) -> None:
        for sequence in finished:
            self._done.append(sequence)
            self._unfinished[sequence.prompt] -= 1
            if not self._unfinished[sequence.prompt]:
                self._prefixes.release(sequence.prompt)

    def _decode(self) -> torch.Tensor:
        """Run the model on the newest token of every live sequence."""
        self._live.sort(key=lambda sequence: (self._prefixes.rank(sequence.prompt), sequence.index))
        self._arrange_slots()
        rows = [self._live_row(sequence) for sequence in self._live]
        token_ids = torch.tensor([sequence.token_ids[-1] for sequence in self._live])
        positions = torch.tensor([len(self._prompts[s.prompt].token_ids) + len(s.token_ids) - 1 for s in self._live])
        return self._decode_newest(Newest(token_ids, positions, self._prefixes, self._arena, rows))

    def _live_row(self, sequence: _Sequence) -> LiveRow:
        assert sequence.slot is not None
        chain = self._prefixes.chain(sequence.prompt)
        return LiveRow(slot=sequence.slot, length=len(sequence.token_ids) - 1, chain=chain)

    def _arrange_slots(self) -> None:
        slots = [sequence.slot for sequence in self._live]
        self._arena.reserve(max(len(sequence.token_ids) for sequence in self._live))
        if None in slots or len(slots) < 0.75 * self._arena.num_slots:
            self._arena.rearrange(slots)
            for slot, sequence in enumerate(self._live):
                sequence.slot = slot

    def _completion(self, sequence: _Sequence) -> Completion:
        assert sequence.finish_reason is not None
        stopped = sequence.token_ids[-1] in self._tokenizer.stop_token_ids
        text = self._tokenizer.decode(sequence.token_ids[:-1] if stopped else sequence.token_ids)
        cuts = [text.index(stop) for stop in self._params.stop if stop in text]
        return Completion(
            token_ids=tuple(sequence.token_ids),
            sampler_logprobs=tuple(sequence.sampler_logprobs),
            policy_logprobs=tuple(sequence.policy_logprobs),
            text=text[: min(cuts)] if cuts else text,
            finish_reason=sequence.finish_reason,
            policy_version=self._adapter.version if self._adapter else 0,
        )


def _uniforms(seed: int, index: int, params: SamplingParams) -> np.ndarray:
    """The numbers in [0, 1) that decide completion `index` of a prompt, one per token."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index]))).random(
        params.max_completion_length
    )
