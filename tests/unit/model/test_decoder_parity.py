"""Our decoder and sampler beside transformers: the same logits, and the same greedy tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_transformers_model, write_tokenizer
from transformers import LlamaForCausalLM, PreTrainedModel

from groat.config.tree import ModelConfig
from groat.kernels.ops import product
from groat.model.attention import tree_attention
from groat.model.decoder import Decoder
from groat.model.layers import rotary_frequencies
from groat.model.load import LoadedModel, load_model
from groat.model.locate import model_folder
from groat.sampling.base import SamplingParams
from groat.sampling.native.sampler import NativeSampler
from groat.trees import Node
from groat.types import Problem, Prompt

FAMILIES = ("llama", "llama with biases", "llama3", "mistral", "qwen2", "qwen3", "phi3", "phi4-mini", "smollm3")
LIMIT = 1e-4
NUM_GREEDY = 64


def write_sharp_model(folder: Path, kind: str) -> PreTrainedModel:
    """A tiny random model whose layers say more than its embedding does."""
    model = tiny_transformers_model(kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(3 if "layers" in name and parameter.dim() == 2 else 1)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def our_logits(model: LoadedModel, token_ids: list[int], first_position: int = 0) -> torch.Tensor:
    decoder, length = Decoder(model.spec, model.weights), len(token_ids)
    with torch.no_grad():
        hidden_TH = decoder.hidden(
            torch.tensor(token_ids),
            first_position + torch.arange(length),
            lambda _, queries, keys, values: tree_attention(queries, keys, values, (Node(0, length, length, True),)),
            None,
        )
        return product(decoder.final_norm(hidden_TH), model.weights.head_VH)


def their_logits(model: PreTrainedModel, token_ids: list[int], first_position: int = 0) -> torch.Tensor:
    positions = first_position + torch.arange(len(token_ids))[None]
    with torch.no_grad():
        return model(input_ids=torch.tensor([token_ids]), position_ids=positions).logits[0]


def our_greedy(model: LoadedModel, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    sampler = NativeSampler(Decoder(model.spec, model.weights), model.tokenizer, max_concurrent=8)
    params = SamplingParams(
        num_generations=1, max_completion_length=num_tokens, min_completion_length=num_tokens, temperature=0
    )
    problem = Problem(id="p", prompt="?")
    with sampler.awake():
        groups = sampler.sample(
            [Prompt(problem=problem, token_ids=tuple(ids)) for ids in prompts], None, params, [0] * len(prompts)
        )
    return [list(group.completions[0].token_ids) for group in groups]


def their_greedy(model: PreTrainedModel, token_ids: list[int], num_tokens: int, stops: frozenset[int]) -> list[int]:
    output = model.generate(
        torch.tensor([token_ids]),
        attention_mask=torch.ones(1, len(token_ids), dtype=torch.long),
        do_sample=False,
        min_new_tokens=num_tokens,
        max_new_tokens=num_tokens,
        eos_token_id=sorted(stops),
        pad_token_id=0,
    )
    return output[0, len(token_ids) :].tolist()


def random_tokens(count: int, below: int, seed: int = 0) -> list[int]:
    return torch.randint(below, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[LoadedModel, PreTrainedModel]:
    theirs = write_sharp_model(tmp_path, request.param)
    return load_model(ModelConfig(name=str(tmp_path))), theirs


def test_logits_of_every_family_are_those_of_transformers(pair: tuple[LoadedModel, PreTrainedModel]):
    ours, theirs = pair
    # Shorter than Mistral's window of 128: longer sequences are refused before they come here.
    token_ids = random_tokens(120, ours.spec.vocab_size)
    difference = float((our_logits(ours, token_ids) - their_logits(theirs, token_ids)).abs().max())
    assert difference < LIMIT


def test_greedy_tokens_of_every_family_are_those_of_transformers(pair: tuple[LoadedModel, PreTrainedModel]):
    ours, theirs = pair
    prompts = [random_tokens(length, ours.spec.vocab_size, seed=length) for length in (1, 7, 30)]
    stops = ours.tokenizer.stop_token_ids
    expected = [their_greedy(theirs, prompt, NUM_GREEDY, stops) for prompt in prompts]
    assert our_greedy(ours, prompts, NUM_GREEDY) == expected
    assert len({token for tokens in expected for token in tokens}) > 20  # nobody agrees by repeating one token


def test_llama3_scaling_holds_beyond_the_positions_the_model_began_with(tmp_path: Path):
    theirs = write_sharp_model(tmp_path, "llama3")
    ours = load_model(ModelConfig(name=str(tmp_path)))
    assert ours.spec.rope_scaling is not None
    assert ours.spec.rope_scaling.original_max_position_embeddings == 64
    token_ids = random_tokens(480, ours.spec.vocab_size)
    difference = float((our_logits(ours, token_ids) - their_logits(theirs, token_ids)).abs().max())
    assert difference < LIMIT


def test_llama3_scaling_changes_logits(tmp_path: Path):
    """Otherwise the test above would prove nothing."""
    write_sharp_model(tmp_path, "llama3")
    model = load_model(ModelConfig(name=str(tmp_path)))
    token_ids = random_tokens(100, model.spec.vocab_size)
    unscaled = replace(model, spec=replace(model.spec, rope_scaling=None))
    assert (our_logits(model, token_ids) - our_logits(unscaled, token_ids)).abs().max() > 100 * LIMIT


def test_llama3_frequencies_are_those_of_transformers(tmp_path: Path):
    theirs = write_sharp_model(tmp_path, "llama3")
    ours = load_model(ModelConfig(name=str(tmp_path)))
    torch.testing.assert_close(
        rotary_frequencies(ours.spec).float(), theirs.model.rotary_emb.inv_freq, rtol=2e-7, atol=0
    )


@pytest.fixture(scope="module")
def smollm2() -> tuple[LoadedModel, PreTrainedModel]:
    pytest.importorskip("gguf")
    name = "smollm2-135m-instruct"
    folder = model_folder(name)
    theirs = LlamaForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval()
    return load_model(ModelConfig(name=name)), theirs


@pytest.mark.slow
def test_logits_of_smollm2_are_those_of_transformers(smollm2: tuple[LoadedModel, PreTrainedModel]):
    ours, theirs = smollm2
    token_ids = ours.tokenizer.encode_prompt([{"role": "user", "content": "What is 12 + 7 * 3? Think step by step."}])
    difference = float((our_logits(ours, token_ids) - their_logits(theirs, token_ids)).abs().max())
    assert difference < LIMIT


@pytest.mark.slow
def test_greedy_tokens_of_smollm2_are_those_of_transformers(smollm2: tuple[LoadedModel, PreTrainedModel]):
    ours, theirs = smollm2
    prompt = ours.tokenizer.encode_prompt([{"role": "user", "content": "Write a short poem about a coin."}])
    expected = their_greedy(theirs, prompt, NUM_GREEDY, ours.tokenizer.stop_token_ids)
    assert our_greedy(ours, [prompt], NUM_GREEDY) == [expected]
