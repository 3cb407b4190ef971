import io
from collections.abc import Sequence

import pytest

from groat.sampling.base import SamplingParams
from groat.testing import ScriptedSampler
from groat.tracking.console import Console
from groat.training.evaluate import evaluate, mean_of_means, proportion
from groat.training.phases import Phases, Stopped
from groat.types import Problem, Prompt, Turn

ANSWERS = {"easy": ["yes", "yes", "yes", "yes"], "odd": ["no", "yes", "no", "no"], "hard": ["no", "no", "no", "no"]}
PROMPTS = [
    Prompt(problem=Problem(id=name, prompt=f"{name}?", columns={"answer": "yes"}), token_ids=(1,)) for name in ANSWERS
]


def phases() -> Phases:
    return Phases(Console(quiet=True, stream=io.StringIO()))


def is_right(problem: Problem, text: str, turns: Sequence[Turn] = (), environment: object = None) -> bool:
    return text == problem.columns["answer"]


def test_wilsons_interval_by_hand() -> None:
    # 1 of 4, z = 1.96: centre (0.25 + 3.8415/8) / (1 + 3.8415/4) = 0.730182/1.960365 = 0.372473,
    # half 1.96 * sqrt(0.25 * 0.75 / 4 + 3.8415/64) / 1.960365 = 1.96 * 0.326966 / 1.960365 = 0.326895.
    found = proportion(1, 4)
    assert found.value == 0.25
    assert found.low == pytest.approx(0.0456, abs=1e-4)
    assert found.high == pytest.approx(0.6994, abs=1e-4)
    assert found.problems == 4


def test_wilsons_interval_is_not_empty_where_all_are_right_or_wrong() -> None:
    # z^2 / (n + z^2) = 3.8415 / 13.8415 for n = 10.
    none, every = proportion(0, 10), proportion(10, 10)
    assert (none.low, none.high) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert (every.low, every.high) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))


def test_the_mean_of_means_and_its_interval_by_hand() -> None:
    # Shares 1, 0.25 and 0: mean 5/12, variance ((7/12)^2 + (2/12)^2 + (5/12)^2) / 2 = 78/288,
    # half 1.96 * sqrt(78/288 / 3) = 0.58889.
    found = mean_of_means([1.0, 0.25, 0.0])
    assert found.value == pytest.approx(5 / 12)
    assert found.low == 0.0
    assert found.high == 1.0
    narrow = mean_of_means([0.5, 0.4, 0.6, 0.5])
    # Variance 0.02/3, half 1.96 * sqrt(0.02/12) = 0.080013.
    assert (narrow.low, narrow.high) == (pytest.approx(0.5 - 0.080015, abs=1e-5), pytest.approx(0.580015, abs=1e-5))


def test_the_figures_of_an_evaluation_by_hand() -> None:
    sampler = ScriptedSampler(ANSWERS)
    result = evaluate(sampler, PROMPTS, None, SamplingParams(), 4, is_right, phases())
    assert result.figures == {
        "avg@4": mean_of_means([1.0, 0.25, 0.0]),
        "pass@4": proportion(2, 3),
        "greedy": proportion(1, 3),
    }
    assert [(answer.problem_id, answer.text, answer.correct) for answer in result.answers] == [
        ("easy", "yes", True),
        ("odd", "no", False),
        ("hard", "no", False),
    ]
    assert (result.answers[0].prompt_text, result.answers[0].reference) == ("easy?", "yes")


def test_a_problem_is_drawn_with_the_same_numbers_whatever_the_policy_and_greedily_once() -> None:
    sampler = ScriptedSampler(ANSWERS)
    params = SamplingParams(temperature=0.7, max_completion_length=9)
    evaluate(sampler, PROMPTS, None, params, 4, is_right, phases())
    evaluate(sampler, PROMPTS[:2], None, params, 4, is_right, phases())
    assert [call.seeds for call in sampler.calls] == [(0, 1, 2), (0, 1, 2), (0, 1), (0, 1)]
    sampled, greedy = (call.params for call in sampler.calls[:2])
    assert (sampled.num_generations, sampled.temperature) == (4, 0.7)
    assert (greedy.num_generations, greedy.temperature, greedy.max_completion_length) == (1, 0.0, 9)


def test_a_stop_that_was_asked_for_ends_an_evaluation_at_once() -> None:
    sampler = ScriptedSampler(ANSWERS)
    asked = phases()
    asked.stop_requested = True
    with pytest.raises(Stopped):
        evaluate(sampler, PROMPTS, None, SamplingParams(), 4, is_right, asked)
    assert sampler.calls == []


def test_a_judge_alone_compares_the_greedy_answers_and_draws_no_others() -> None:
    sampler, given = ScriptedSampler(ANSWERS), []

    def compare(problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        given.append(([problem.id for problem in problems], texts))
        return [1.0, 0.5, 0.0]

    result = evaluate(sampler, PROMPTS, None, SamplingParams(), 4, None, phases(), compare)
    assert given == [(["easy", "odd", "hard"], ["yes", "no", "no"])]
    assert result.figures == {"win_rate": mean_of_means([1.0, 0.5, 0.0])}
    assert [(answer.kind, answer.correct) for answer in result.answers] == [
        ("judged", True),
        ("judged", False),
        ("judged", False),
    ]
    assert [call.params.num_generations for call in sampler.calls] == [1]


def test_a_judge_beside_answers_adds_its_figure() -> None:
    result = evaluate(
        ScriptedSampler(ANSWERS), PROMPTS, None, SamplingParams(), 4, is_right, phases(), lambda _, __: [0.5] * 3
    )
    assert list(result.figures) == ["avg@4", "pass@4", "greedy", "win_rate"]
    assert result.figures["greedy"] == proportion(1, 3)
    assert {answer.kind for answer in result.answers} == {"greedy"}
