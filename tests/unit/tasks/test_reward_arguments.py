"""Reward functions are called with what TRL calls them with, and cannot harm what they get."""

from __future__ import annotations

import functools

from reward_examples import a_grader, a_group

from groat.tasks import Grader, RewardFunction


def test_function_gets_trls_keywords_and_every_column_repeated_per_completion():
    seen = {}

    def reward(**everything):
        seen.update(everything)
        return [0.0] * 3

    groups = [a_group("x", "y", name="a", answer="4", level=1), a_group("z", name="b", answer="9")]
    a_grader(reward).grade(groups, trainer_state="state")
    assert seen["prompts"] == ["2 + 2?"] * 3
    assert seen["completions"] == ["x", "y", "z"]
    assert seen["completion_ids"] == [[0], [1], [0]]
    assert seen["answer"] == ["4", "4", "9"]
    assert seen["level"] == [1, 1, None]
    assert seen["trainer_state"] == "state"
    assert set(seen) == {
        *("prompts", "completions", "completion_ids", "answer", "level", "trainer_state", "log_extra", "log_metric")
    }


def test_chat_prompts_give_completions_as_chat_turns():
    seen = {}

    def reward(prompts, completions):
        seen.update(prompts=prompts, completions=completions)
        return [1.0]

    a_grader(reward).grade([a_group("hi", prompt=({"role": "user", "content": "say hi"},))])
    assert seen["prompts"] == [[{"role": "user", "content": "say hi"}]]
    assert seen["completions"] == [[{"role": "assistant", "content": "hi"}]]


def test_function_gets_only_what_it_accepts():
    def reward(completions, *, answer):
        return [float(text == right) for text, right in zip(completions, answer, strict=True)]

    [group] = a_grader(reward).grade([a_group("4", "5", answer="4", other=1)])
    assert [reward.total for reward in group.rewards] == [1.0, 0.0]


def test_partials_objects_and_lambdas_are_functions_too():
    class Length:
        def __call__(self, completions, **kwargs):
            return [float(len(text)) for text in completions]

    def scaled(completions, factor):
        return [factor * len(text) for text in completions]

    functions = [
        RewardFunction(name="object", function=Length()),
        RewardFunction(name="partial", function=functools.partial(scaled, factor=10)),
        RewardFunction(name="lambda", function=lambda completions: [0.5 for _ in completions]),
    ]
    [group] = Grader(functions).grade([a_group("abc")])
    assert group.rewards[0].parts == {"object": 3.0, "partial": 30.0, "lambda": 0.5}


def test_mutated_inputs_reach_no_one_else():
    def spoil(prompts, completions, completion_ids, answer, info):
        prompts[0][0]["content"] = "spoiled"
        completions[0][0]["content"] = "spoiled"
        completion_ids[0].append(99)
        info[0]["nested"].append(99)
        answer.clear()
        return [0.0]

    def look(prompts, completions, completion_ids, answer, info):
        assert (prompts[0][0]["content"], completions[0][0]["content"]) == ("q", "text")
        assert (completion_ids, answer, info) == ([[0]], ["4"], [{"nested": [1]}])
        return [1.0]

    given = a_group("text", prompt=({"role": "user", "content": "q"},), answer="4", info={"nested": [1]})
    [graded] = a_grader(spoil, look).grade([given])
    assert graded.prompt == given.prompt
    assert given.prompt.problem.columns == {"answer": "4", "info": {"nested": [1]}}
    assert graded.rewards[0].parts == {"spoil": 0.0, "look": 1.0}
