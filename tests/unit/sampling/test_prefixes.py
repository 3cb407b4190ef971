"""A prompt's keys and values: computed once, and gone when the last completion that needs them is drawn."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from sampler_examples import PROMPTS, SPEC, params_of, sampled, sampler_of
from tiny_decoders import tiny_decoder, tiny_spec

from groat.model.attention import tree_attention
from groat.model.decoder import Decoder
from groat.sampling.native import sampler as sampler_module
from groat.sampling.native.cache import SuffixArena
from groat.sampling.native.decode import decode_layer_by_layer
from groat.sampling.native.prefill import Prefixes
from groat.trees import grow


class CountingDecoder(Decoder):
    """Notes how many tokens every forward has."""

    counts: list[int]

    def hidden(self, token_ids_T: torch.Tensor, *arguments: Any, **more: Any) -> torch.Tensor:
        self.counts.append(len(token_ids_T))
        return super().hidden(token_ids_T, *arguments, **more)


def counting_decoder() -> CountingDecoder:
    decoder = tiny_decoder(SPEC, kind=CountingDecoder)
    assert isinstance(decoder, CountingDecoder)
    decoder.counts = []
    return decoder


@pytest.mark.parametrize("max_concurrent", [1, 4, 64])
def test_every_shared_token_of_the_prompts_is_computed_once(max_concurrent: int, monkeypatch: pytest.MonkeyPatch):
    """However many completions, and however many rounds they come in.

    The first token of a completion needs no forward but the prompt's, and the last one none at all.
    """
    decoder = counting_decoder()
    params = params_of(num_generations=6, max_completion_length=5, min_completion_length=5)
    monkeypatch.setattr(sampler_module, "decode_with", decode_layer_by_layer)
    sampled(sampler_of(decoder, max_concurrent=max_concurrent), params)
    drawn = len(PROMPTS) * 6 * (5 - 1)
    assert sum(decoder.counts) == len(grow(PROMPTS).token_ids) + drawn
    assert len(grow(PROMPTS).token_ids) < sum(map(len, PROMPTS))


def test_a_forward_over_prompts_stays_within_its_tokens():
    decoder = counting_decoder()
    sampled(sampler_of(decoder, prefill_tokens=7), params_of(max_completion_length=1))
    assert max(decoder.counts) <= 7
    assert sum(decoder.counts) >= len(grow(PROMPTS).token_ids)


class WatchedPrefixes(Prefixes):
    """Looks, after each release, for nodes held that no prompt still needs."""

    released: set[int]
    most_held: int

    def release(self, prompt: int) -> None:
        self.most_held = max(self.most_held, len(self._computed))
        super().release(prompt)
        self.released.add(prompt)
        needed = {
            node
            for other in range(len(self._forest.chains))
            if other not in self.released
            for node in self.chain(other)
        }
        assert self._computed.keys() <= needed


@pytest.mark.parametrize(("max_concurrent", "most_held"), [(2, 2), (64, 6)])
def test_keys_and_values_are_freed_when_a_prompts_group_ends(
    monkeypatch: pytest.MonkeyPatch, max_concurrent: int, most_held: int
):
    """Two at a time: the last completion of one prompt and the first of the next."""
    made: list[WatchedPrefixes] = []

    def make(*arguments: Any) -> WatchedPrefixes:
        made.append(WatchedPrefixes(*arguments))
        made[-1].released, made[-1].most_held = set(), 0
        return made[-1]

    monkeypatch.setattr(sampler_module, "Prefixes", make)
    prompts = [(first,) * 5 for first in range(1, 7)]
    sampled(sampler_of(max_concurrent=max_concurrent), params_of(num_generations=2), prompts)
    assert made[0].released == set(range(6))
    assert made[0].most_held <= most_held
    sampled(sampler_of(max_concurrent=max_concurrent), params_of(num_generations=2), PROMPTS)
    assert made[1].released == set(range(len(PROMPTS)))


def test_a_node_stays_while_another_prompt_needs_it():
    prefixes = Prefixes(tiny_decoder(SPEC), None, [(1, 2, 3, 4), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4)], 100)
    assert [prefixes.chain(prompt) for prompt in range(3)] == [(0,), (0, 1), (0,)]
    assert prefixes.compute([0, 1, 2]) == 6
    prefixes.release(1)
    with pytest.raises(KeyError):
        prefixes.kv(1)
    prefixes.release(0)
    assert prefixes.kv(0).keys[0].shape == (4, SPEC.num_kv_heads, SPEC.head_dim)
    prefixes.release(2)
    with pytest.raises(KeyError):
        prefixes.kv(0)


def test_what_is_computed_already_is_not_computed_again():
    prefixes = Prefixes(tiny_decoder(SPEC), None, [(1, 2, 3, 4, 5), (1, 2, 3, 4, 6, 7)], 100)
    assert prefixes.compute([0]) == 5
    assert prefixes.compute([0]) == 0
    assert prefixes.compute([0, 1]) == 2


@pytest.mark.parametrize("seed", range(20))
def test_in_whatever_order_and_pieces_prompts_are_computed_their_last_hidden_state_is_the_same(seed: int):
    """The other way is one forward per prompt over the whole of it."""
    source = random.Random(seed)
    decoder = tiny_decoder(tiny_spec(), dtype=torch.float64)
    prompts = [tuple(source.choices((1, 2), k=source.randint(1, 14))) for _ in range(8)]
    prompts += [(*prompt, 2, 1, 1, 2, 2) for prompt in prompts[:4]]
    prefixes = Prefixes(decoder, None, prompts, source.choice([1, 2, 5, 30]))
    waiting = list(range(len(prompts)))
    source.shuffle(waiting)
    with torch.no_grad():
        while waiting:
            count = source.randint(1, 4)
            prefixes.compute(waiting[:count])
            waiting = waiting[count:]
        for index, prompt in enumerate(prompts):
            expected_TH = whole_hidden(decoder, prompt)
            torch.testing.assert_close(prefixes.last_hidden(index), expected_TH[-1], rtol=0, atol=1e-11)


def whole_hidden(decoder: Decoder, token_ids: tuple[int, ...]) -> torch.Tensor:
    nodes = grow([token_ids]).nodes
    return decoder.hidden(
        torch.tensor(token_ids),
        torch.arange(len(token_ids)),
        lambda _, queries, keys, values: tree_attention(queries, keys, values, nodes),
        None,
    )


def test_prompts_ranked_side_by_side_share_nodes_without_gaps():
    prefixes = Prefixes(tiny_decoder(SPEC), None, PROMPTS, 100)
    in_order = sorted(range(len(PROMPTS)), key=prefixes.rank)
    for node in {node for prompt in in_order for node in prefixes.chain(prompt)}:
        places = [place for place, prompt in enumerate(in_order) if node in prefixes.chain(prompt)]
        assert places == list(range(places[0], places[-1] + 1))


def test_an_arena_keeps_what_it_holds_when_it_grows_and_is_rearranged():
    arena = SuffixArena(SPEC, max_length=200, storage="f32", dtype=torch.float32)
    arena.rearrange([None, None, None])
    assert arena.layers[0].keys.shape == (3, SPEC.num_kv_heads, 64, SPEC.head_dim)
    for slot in range(3):
        arena.layers[1].keys[slot] = slot + 1
        arena.layers[0].values[slot] = -slot - 1
    arena.reserve(65)
    arena.rearrange([2, None, 0])
    assert arena.num_slots == 3
    assert arena.layers[1].keys[:, 0, 63, 0].tolist() == [3, 0, 1]
    assert arena.layers[0].values[:, 0, 0, 0].tolist() == [-3, 0, -1]
    assert arena.layers[1].keys[:, 0, 64, 0].tolist() == [0, 0, 0]


def test_an_arena_grows_by_blocks_and_half_its_length_but_never_beyond_the_longest_completion():
    arena = SuffixArena(SPEC, max_length=200, storage="f32", dtype=torch.float32)
    arena.rearrange([None])
    lengths: list[int] = []
    for length in (1, 64, 65, 128, 129, 192, 193, 200):
        arena.reserve(length)
        lengths.append(arena.layers[0].keys.shape[2])
    assert lengths == [64, 64, 128, 128, 192, 192, 200, 200]


def test_an_arena_for_short_completions_is_no_longer_than_they_are():
    arena = SuffixArena(SPEC, max_length=5, storage="f32", dtype=torch.float32)
    arena.rearrange([None])
    arena.reserve(5)
    assert arena.layers[0].keys.shape[2] == 5
