"""The scripted sampler keeps a real sampler's rules."""

from dataclasses import replace

import pytest

from groat.model.lora import Adapter
from groat.sampling.base import Sampler, SamplingParams
from groat.testing import ScriptedSampler
from groat.types import FinishReason, Group, Problem, Prompt

TWO = SamplingParams(num_generations=2, max_completion_length=4)


def a_prompt(name: str) -> Prompt:
    return Prompt(problem=Problem(id=name, prompt=name), token_ids=(1, 2))


def sampled(sampler: Sampler, *names: str, params: SamplingParams = TWO, adapter: Adapter | None = None) -> list[Group]:
    with sampler.awake():
        return sampler.sample([a_prompt(name) for name in names], adapter, params, range(len(names)))


def texts(groups: list[Group]) -> list[list[str]]:
    return [[completion.text for completion in group.completions] for group in groups]


def test_answers_come_in_order_for_every_prompt():
    assert texts(sampled(ScriptedSampler(["a", "b"]), "p", "q")) == [["a", "b"], ["a", "b"]]
    assert texts(sampled(ScriptedSampler({"q": ["c", "d"], "p": ["a", "b"]}), "p", "q")) == [["a", "b"], ["c", "d"]]


def test_a_function_is_asked_with_prompt_seed_and_index():
    sampler = ScriptedSampler(lambda prompt, seed, index: f"{prompt.problem.id}{seed}{index}")
    assert texts(sampled(sampler, "p", "q")) == [["p00", "p01"], ["q10", "q11"]]


def test_an_answer_that_fits_ends_with_the_stop_token():
    [group] = sampled(ScriptedSampler(["abc", "abcd"], stop_token_id=0, logprob=-0.5), "p")
    whole, cut = group.completions
    assert (whole.token_ids, whole.text, whole.finish_reason) == ((97, 98, 99, 0), "abc", FinishReason.STOP)
    assert (cut.token_ids, cut.text, cut.finish_reason) == ((97, 98, 99, 100), "abcd", FinishReason.LENGTH)
    assert whole.policy_logprobs == whole.sampler_logprobs == (-0.5,) * 4


def test_a_stop_string_ends_the_text_but_not_the_tokens():
    [group] = sampled(ScriptedSampler(["a;b", "ab"], stop_token_id=0), "p", params=replace(TWO, stop=(";",)))
    assert texts([group]) == [["a", "ab"]]
    assert group.completions[0].token_ids == tuple(b"a;b")


def test_completions_carry_the_policy_version_and_calls_are_remembered():
    sampler = ScriptedSampler(["a", "b"])
    adapter = Adapter(version=3, config=None, layers=())  # pyright: ignore[reportArgumentType]
    [group] = sampled(sampler, "p", adapter=adapter)
    assert [completion.policy_version for completion in group.completions] == [3, 3]
    [call] = sampler.calls
    assert (call.policy_version, call.params, call.seeds, call.prompts[0].problem.id) == (3, TWO, (0,), "p")


def test_progress_counts_the_tokens_that_could_have_been():
    seen: list[int] = []
    sampler = ScriptedSampler(["a", "bc"])
    with sampler.awake():
        sampler.sample([a_prompt("p")], None, TWO, [0], seen.append)
    assert seen == [2 * TWO.max_completion_length]


def test_too_few_answers_and_a_sleeping_sampler_are_errors():
    with pytest.raises(ValueError, match="1 answers are prepared for problem p; number 2 was asked"):
        sampled(ScriptedSampler(["a"]), "p")
    with pytest.raises(AssertionError, match="awake"):
        ScriptedSampler(["a"]).sample([a_prompt("p")], None, TWO, [0])
