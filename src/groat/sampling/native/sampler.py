"""The native sampler: continuous batching over groups whose prompts are computed and stored once.

Left out so far: int8 compute, paging of the completions' keys and values, speculative drafts.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from groat.model.attention import attend_block, merge
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.model.tokenizer import Tokenizer
from groat.sampling.base import Progress, SamplingParams, no_progress
from groat.sampling.native.cache import SuffixArena
from groat.sampling.native.draw import draw
from groat.sampling.native.prefill import Prefixes
from groat.types import Completion, FinishReason, Group, Prompt, UserError


@dataclass(slots=True, kw_only=True)
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


class NativeSampler:
    """Samples from a Decoder; keys and values exist only while awake."""

    prefill_tokens = 2048
    """Prompt tokens computed in one forward."""

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, *, max_concurrent: int) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._max_concurrent = max_concurrent
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
        rollout = _Rollout(self._decoder, self._tokenizer, prompts, adapter, params, seeds, self._max_concurrent)
        while rollout.is_unfinished:
            progress(*rollout.advance())
        return rollout.groups()

    def _check_length(self, prompt: Prompt, params: SamplingParams) -> None:
        room = self._decoder.spec.max_context - len(prompt.token_ids)
        if not prompt.token_ids:
            raise UserError(f"problem {prompt.problem.id}: the prompt has no tokens")
        if room < params.max_completion_length:
            raise UserError(
                f"problem {prompt.problem.id}: the prompt has {len(prompt.token_ids)} tokens, and with "
                f"sampling.max_completion_length {params.max_completion_length} it would exceed the model's context of "
                f"{self._decoder.spec.max_context} tokens; shorten the prompt or the completions"
            )


class _Rollout:
    """One call to `sample`: which completions wait, which are live, which are done."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        adapter: Adapter | None,
        params: SamplingParams,
        seeds: Sequence[int],
        max_concurrent: int,
    ) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._adapter = adapter
        self._params = params
        self._max_concurrent = max_concurrent
        self._prefixes = Prefixes(
            decoder, adapter, [prompt.token_ids for prompt in prompts], NativeSampler.prefill_tokens
        )
        self._arena = SuffixArena(decoder.spec, params.max_completion_length, decoder.weights.embedding_VH.dtype)
        self._waiting = [
            _Sequence(prompt=prompt, index=index, uniforms=_uniforms(seeds[prompt], index, params))
            for prompt in sorted(range(len(prompts)), key=self._prefixes.rank)
            for index in range(params.num_generations)
        ]
        self._waiting.reverse()
        self._unfinished = [params.num_generations] * len(prompts)
        self._live: list[_Sequence] = []
        self._done: list[_Sequence] = []
        self._hidden_SH = decoder.weights.embedding_VH.new_empty(0, decoder.spec.hidden_size)

    @property
    def is_unfinished(self) -> bool:
        return bool(self._waiting or self._live)

    def advance(self) -> tuple[int, int]:
        """Let sequences in, draw a token for each live one, and run the model on those that go on."""
        self._admit()
        drawn = len(self._live)
        self._draw()
        staying = [row for row, sequence in enumerate(self._live) if sequence.finish_reason is None]
        finished = [sequence for sequence in self._live if sequence.finish_reason is not None]
        self._retire(finished)
        self._live = [self._live[row] for row in staying]
        self._hidden_SH = self._decode() if self._live else self._hidden_SH[:0]
        return drawn, len(finished)

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
        entering = [self._waiting.pop() for _ in range(min(free, len(self._waiting)))]
        self._prefixes.compute(sorted({sequence.prompt for sequence in entering}))
        first_SH = torch.stack([self._prefixes.last_hidden(sequence.prompt) for sequence in entering])
        self._hidden_SH = torch.cat([self._hidden_SH, first_SH])
        self._live.extend(entering)

    def _draw(self) -> None:
        params, live = self._params, self._live
        rows_SH = self._decoder.final_norm(self._hidden_SH)
        # The large matrix on the left: 1.5 times as fast for 8 to 128 rows, the copy included.
        logits_SV = (self._decoder.weights.head_VH @ rows_SH.T).T.contiguous()
        places = [len(sequence.token_ids) for sequence in live]
        stop_ids = sorted(self._tokenizer.stop_token_ids)
        drawn = draw(
            logits_SV,
            params,
            torch.tensor([sequence.uniforms[place] for sequence, place in zip(live, places, strict=True)]),
            [self._seen(sequence) for sequence in live] if params.repetition_penalty != 1 else None,
            [(row, stop_ids) for row, place in enumerate(places) if place < params.min_completion_length],
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
        return FinishReason.LENGTH if len(sequence.token_ids) >= self._params.max_completion_length else None

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
        attention = _DecodeAttention(self._prefixes, self._arena, self._live)
        token_ids = torch.tensor([sequence.token_ids[-1] for sequence in self._live])
        positions = torch.tensor([len(self._prompts[s.prompt].token_ids) + len(s.token_ids) - 1 for s in self._live])
        return self._decoder.hidden(token_ids, positions, attention, self._adapter)

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


class _DecodeAttention:
    """One token per live sequence: each prompt node for all sequences below it at once, then their own suffixes."""

    def __init__(self, prefixes: Prefixes, arena: SuffixArena, live: Sequence[_Sequence]) -> None:
        self._arena = arena
        self._levels = [[(prefixes.kv(node), rows) for node, rows in level] for level in _rows_by_level(prefixes, live)]
        lengths = [len(sequence.token_ids) - 1 for sequence in live]
        slots = [sequence.slot for sequence in live]
        assert all(slot is not None for slot in slots)
        self._slots_S = torch.tensor(slots)
        self._lengths_S = torch.tensor(lengths)
        self._longest = max(lengths) + 1
        self._in_order = slots == list(range(arena.num_slots))
        # A slot whose sequence has left sees its first token: harmless, and never read.
        seen_C = torch.zeros(arena.num_slots, dtype=torch.long).index_copy_(0, self._slots_S, self._lengths_S)
        hidden_CL = torch.arange(self._longest) > seen_C[:, None]
        # In the dtype of the queries: the fused kernel reads any other as garbage, without a word.
        mask_CL = arena.keys[0].new_zeros(hidden_CL.shape).masked_fill_(hidden_CL, -torch.inf)
        self._mask_C11L = mask_CL[:, None, None, :] if bool(hidden_CL.any()) else None

    def __call__(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        self._arena.keys[layer][self._slots_S, :, self._lengths_S] = keys
        self._arena.values[layer][self._slots_S, :, self._lengths_S] = values
        output, lse = self._attend_suffixes(layer, queries)
        for level in self._levels:
            blocks = [attend_block(queries[rows], kv.keys[layer], kv.values[layer], causal=False) for kv, rows in level]
            # A level's nodes lie side by side, so that one merge serves them all.
            rows = slice(level[0][1].start, level[-1][1].stop)
            level_output, level_lse = torch.cat([b for b, _ in blocks]), torch.cat([lse for _, lse in blocks], dim=1)
            merge(output[rows], lse[:, rows], level_output, level_lse)
        return output

    def _attend_suffixes(self, layer: int, queries_SAD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heads, size = queries_SAD.shape[1:]
        kv_heads = self._arena.keys[layer].shape[1]
        if not self._in_order:
            spread = queries_SAD.new_zeros(self._arena.num_slots, heads, size)
            queries_SAD = spread.index_copy_(0, self._slots_S, queries_SAD)
        queries_CKGD = queries_SAD.reshape(-1, kv_heads, heads // kv_heads, size)
        keys = self._arena.keys[layer][:, :, : self._longest]
        values = self._arena.values[layer][:, :, : self._longest]
        output_CKGD, lse_CKG = attend_slots(queries_CKGD, keys, values, self._mask_C11L)
        output, lse = output_CKGD.reshape(-1, heads, size), lse_CKG.reshape(-1, heads).T
        if not self._in_order:
            output, lse = output[self._slots_S], lse[:, self._slots_S]
        return output, lse.contiguous()


def attend_slots(
    queries_CKGD: torch.Tensor, keys_CKLD: torch.Tensor, values_CKLD: torch.Tensor, mask_C11L: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each slot's queries over its own keys; returns output [C, K, G, D] and log-sum-exp [C, K, G]."""
    if queries_CKGD.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries_CKGD, keys_CKLD, values_CKLD, 0.0, False, attn_mask=mask_C11L
        )
    return attend_slots_by_matmul(queries_CKGD, keys_CKLD, values_CKLD, mask_C11L)


def attend_slots_by_matmul(
    queries_CKGD: torch.Tensor, keys_CKLD: torch.Tensor, values_CKLD: torch.Tensor, mask_C11L: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain matmuls, for devices without the fused kernel (not run on a GPU)."""
    scores_CKGL = queries_CKGD @ keys_CKLD.transpose(-1, -2) * queries_CKGD.shape[-1] ** -0.5
    if mask_C11L is not None:
        scores_CKGL = scores_CKGL + mask_C11L
    lse_CKG = scores_CKGL.logsumexp(-1)
    return (scores_CKGL - lse_CKG[..., None]).exp() @ values_CKLD, lse_CKG


def _rows_by_level(prefixes: Prefixes, live: Sequence[_Sequence]) -> list[list[tuple[int, slice]]]:
    """The prompt nodes in use, each with the range of live sequences below it, in lists whose ranges touch.

    `live` is sorted by rank, so a node's sequences lie side by side, and so do those of the nodes of one depth, but
    for prompts that end above it.
    """
    levels: dict[tuple[int, int], list[tuple[int, slice]]] = {}
    for row, sequence in enumerate(live):
        for depth, node in enumerate(prefixes.chain(sequence.prompt)):
            _extend(levels, depth, node, row)
    return list(levels.values())


def _extend(levels: dict[tuple[int, int], list[tuple[int, slice]]], depth: int, node: int, row: int) -> None:
    """Add a row to a node's range; a gap at this depth begins a new list."""
    number = max((number for level, number in levels if level == depth), default=0)
    nodes = levels.setdefault((depth, number), [])
    if nodes and nodes[-1][0] == node:
        nodes[-1] = (node, slice(nodes[-1][1].start, row + 1))
    elif not nodes or nodes[-1][1].stop == row:
        nodes.append((node, slice(row, row + 1)))
    else:
        levels[depth, number + 1] = [(node, slice(row, row + 1))]
