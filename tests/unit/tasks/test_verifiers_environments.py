"""Tasks of the package `verifiers`: rows, conversations and rewards of its environments, and what is refused."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path
from typing import Any

import pytest

from groat.config.tree import (
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    RunConfig,
    SamplingConfig,
    TaskConfig,
    TrainingConfig,
)
from groat.tasks.environments import OwnEnvironmentError
from groat.tasks.reward_arguments import Answers
from groat.tasks.rewards import Grader
from groat.tasks.task import Task, build_task
from groat.testing import tiny_model
from groat.testing.toy_dialogue import STOPS
from groat.tracking.console import Console
from groat.tracking.store import RunStore
from groat.training.run import train
from groat.types import Turn, UserError

FILE = Path(__file__).with_name("verifiers_examples.py")
HERMES = "<tool_call>"


def task_of(name: str) -> Task:
    return build_task(TaskConfig(name=f"verifiers:{FILE}:{name}", shuffle_dataset=False, eval_fraction=0.25), 0)


def played(task: Task, *says: list[str]) -> tuple[list[list[tuple[str, str]]], dict[str, list[Any]], list[Any]]:
    """Conversations about the first problem, in which the model says these turns: their turns, the values of the
    rewards, and the states."""
    assert task.environments is not None
    environments = task.environments.for_template(HERMES)
    problem, talks, all_turns = task.train[0], [], []
    for said in says:
        talk = environments.begin(problem)
        turns: list[Turn] = []
        for number, text in enumerate(said, start=1):
            turns.append(Turn(role="assistant", content=text))
            reply = None if number == environments.max_turns else talk.reply(text)
            if reply is None:
                break
            turns += reply.turns
        talks.append(talk)
        all_turns.append(turns)
    rollouts = [talk.environment for talk in talks]
    answers = Answers(
        problems=[problem] * len(talks),
        texts=[turns[-1].content for turns in all_turns],
        token_ids=[()] * len(talks),
        turns=all_turns,
        environments=rollouts,
    )
    values = Grader(task.rewards).values(answers)
    environments.close()
    plain = [[(turn.role, turn.content) for turn in turns] for turns in all_turns]
    return plain, {name: list(value) for name, value in values.items()}, [rollout.state for rollout in rollouts]


def test_rows_become_problems_and_a_rubric_rewards_with_its_weights():
    task = task_of("single_turn(rows=8)")
    assert (len(task.train), len(task.held_out)) == (6, 2)  # a quarter is held out
    problem = task.train[0]
    assert problem.prompt == ({"role": "user", "content": f"{problem.columns['info']['n']} + 1"},)
    assert [(reward.name, reward.weight) for reward in task.rewards] == [
        ("right", 1.0),
        ("knows_its_row", 0.2),
        ("was_seen", 0.0),
        ("share_of_group", 0.1),
    ]
    answer = problem.columns["answer"]
    _, values, states = played(task, [f"= {answer}"], ["="])
    # "= N" has 3 characters and "=" has 1, of 4 in the group.
    assert values == {
        "right": [1.0, 0.0],
        "knows_its_row": [0.5, 0.5],
        "was_seen": [1.0, 1.0],
        "share_of_group": [0.75, 0.25],
    }
    assert [state["is_truncated"] for state in states] == [False, False]


def test_evaluation_asks_the_first_function_with_a_weight():
    task = task_of("single_turn")
    problem = task.train[0]
    assert task.environments is not None
    assert task.is_correct is not None
    for text, is_right in ((f"so = {problem.columns['answer']}", True), ("= 77", False)):
        talk = task.environments.begin(problem)
        turns = [Turn(role="assistant", content=text)]
        assert task.is_correct(problem, text, turns, talk.environment) == is_right
    task.environments.close()


def test_an_environment_of_several_turns_answers_and_keeps_its_own_state():
    task = task_of("guess")
    answer = task.train[0].columns["answer"]
    turns, values, states = played(task, ["x", answer, "y"], ["x", "y", "z", "never"])
    assert turns == [
        [("assistant", "x"), ("user", "Not x."), ("assistant", answer)],
        [("assistant", "x"), ("user", "Not x."), ("assistant", "y"), ("user", "Not y."), ("assistant", "z")],
    ]
    # Its rewards see all messages, the environment's last word too: x, Not x., answer, Right.; and x to z.
    assert values == {"all_said": [4.0, 5.0]}
    assert [state["said"] for state in states] == [["x", answer], ["x", "y"]]


def test_a_conversation_that_was_cut_is_known_as_truncated():
    _, values, [state] = played(task_of("guess"), ["x"])
    # It was answered, but nothing came after: one message is what the model said.
    assert (values, state["is_truncated"]) == ({"all_said": [1.0]}, True)


def test_tools_are_told_to_the_model_and_called_by_the_environment():
    task = task_of("adds")
    assert task.environments is not None
    assert [one["function"]["name"] for one in task.environments.for_template(HERMES).schemas] == ["add"]
    [problem] = task.train[:1]
    told = task.environments.for_template("").shown(problem)
    assert "add" in told[0]["content"]  # type: ignore[index]
    call = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": %s}}</tool_call>'
    turns, values, _ = played(task, [call % 3 + call % 4, f"= {problem.columns['answer']}"], ["<tool_call>{", "never"])
    assert turns[0][1:] == [("tool", "5"), ("tool", "6"), ("assistant", f"= {problem.columns['answer']}")]
    assert len(turns[1]) == 1  # what is no call is an answer
    assert values == {"right": [1.0, 0.0]}


def test_signals_stay_the_runs_own():
    before = signal.getsignal(signal.SIGINT)
    task_of("single_turn")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("environment", "said", "words"),
    [
        ("guess", "client", r"Guess raised UserError: it asks the client of a model server \(get_response\)"),
        ("guess", "broken", "Guess raised ValueError: no guess"),
        ("guess", "image", "Guess has a message with image_url: groat's models read text only"),
        ("forgets", "x", r"changed earlier messages \(get_prompt_messages\)"),
    ],
)
def test_what_goes_wrong_in_a_conversation_is_told_by_name(environment: str, said: str, words: str):
    with pytest.raises(OwnEnvironmentError, match=words):
        played(task_of(environment), [said])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_loop", r"OwnLoop, which runs its conversations in a way of its own \(rollout\)"),
        ("own_server", r"OwnServer, which asks a model server itself \(get_model_response\)"),
        ("own_scores", r"the rubric OwnScores scores in a way of its own \(score_rollout\)"),
        ("no_weight", "has no function with a weight"),
        ("plain_text", r"completes plain text \(message_type\)"),
        ("no_environment", "makes a object without init_state, setup_state"),
        ("single_turn(cols=3)", "could not be made, TypeError"),
        ("single_turn(3)", "options are written name=value"),
    ],
)
def test_what_groat_cannot_follow_is_refused_by_name(name: str, words: str):
    with pytest.raises(UserError, match=words):
        task_of(name)


def test_a_run_trains_on_one_and_its_rewards_see_the_conversations_that_are_recorded(tmp_path: Path):
    config = RunConfig(
        output_dir=str(tmp_path / "run"),
        model=ModelConfig(name=str(tiny_model(tmp_path / "model"))),
        lora=LoraConfig(r=4, lora_alpha=8),
        task=TaskConfig(name=f"verifiers:{FILE}:guess(rows=8)", eval_fraction=0.25),
        sampling=SamplingConfig(num_generations=4, max_completion_length=120, stop=STOPS),
        training=TrainingConfig(max_steps=2, generation_batch_size=8, learning_rate=1e-2, save_steps=2),
        evaluation=EvaluationConfig(num_problems=2, num_samples=1),
    )
    assert train(config, Console(quiet=True)).finished
    with RunStore.read(tmp_path / "run" / "run.sqlite") as reader:
        rows = [*reader.rollouts(1), *reader.rollouts(2)]
    assert len(rows) == 16
    assert max(len(row.turns) for row in rows) > 1
    # all_said counts messages; nothing else but the model's turns and the environment's are in a conversation.
    assert [row.parts["all_said"] for row in rows] == [float(len(row.turns)) for row in rows]


@pytest.mark.skipif(importlib.util.find_spec("verifiers") is not None, reason="verifiers is installed")
def test_an_environment_by_its_id_needs_the_package():
    with pytest.raises(UserError, match=r'verifiers:wordle needs verifiers.*pip install "verifiers<0.4"'):
        build_task(TaskConfig(name="verifiers:wordle"), 0)
