"""The arithmetic task: what it generates is right, reproducible, and apart from what is held out."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from groat.config.tree import TaskConfig
from groat.tasks import build_task
from groat.tasks.arithmetic import (
    SMALL,
    WORKED_EXAMPLES,
    ArithmeticStream,
    arithmetic_opening,
    held_out_arithmetic,
)
from groat.tasks.arithmetic_templates import NAMES, TEMPLATES, THINGS
from groat.tasks.verifiers import correct_answer, written_steps
from groat.types import Problem, UserError

ALL_STEPS = (1, 2, 3)


def question(problem: Problem) -> str:
    return problem.prompt[-1]["content"]


def numbers_removed(problem: Problem) -> tuple[str, tuple[str, ...]]:
    """Wording without names and things, and the numbers."""
    words = re.sub("|".join((*NAMES, *THINGS)), "_", question(problem))
    return re.sub("[0-9]+", "#", words), tuple(re.findall("[0-9]+", words))


def check_by_hand(problem: Problem) -> None:
    *steps, last = problem.columns["solution"].split("\n")
    assert len(steps) == problem.columns["num_steps"]
    results = []
    for step in steps:
        left, operation, right, result = re.fullmatch(r"(\d+) ([-+*/]) (\d+) = (\d+)", step).groups()
        expected = {
            "+": int(left) + int(right),
            "-": int(left) - int(right),
            "*": int(left) * int(right),
            "/": int(left) / int(right),
        }[operation]
        assert expected == int(result)
        assert 1 <= int(result) <= SMALL.largest_result
        results.append((left, result))
    assert all(before[1] == after[0] for before, after in pairwise(results))
    assert last == f"Answer: {results[-1][1]}"
    assert problem.columns["answer"] == results[-1][1]


def test_2200_solutions_are_right_by_hand_and_get_full_rewards():
    problems = [*ArithmeticStream(3, ALL_STEPS)[:2000], *held_out_arithmetic(ALL_STEPS)]
    assert len(problems) == 2200
    for problem in problems:
        check_by_hand(problem)
    solutions = [[{"role": "assistant", "content": problem.columns["solution"]}] for problem in problems]
    assert correct_answer(solutions, [problem.columns["answer"] for problem in problems]) == [1.0] * 2200
    assert written_steps(solutions) == [1.0] * 2200


def test_every_number_of_a_step_is_in_the_question_or_is_the_result_before():
    for problem in ArithmeticStream(4, ALL_STEPS)[:500]:
        asked = re.findall("[0-9]+", question(problem))
        steps = re.findall(r"(\d+) [-+*/] (\d+) =", problem.columns["solution"])
        assert sorted([steps[0][0], *(right for _, right in steps)]) == sorted(asked)


def test_same_seed_gives_the_same_problems_and_another_seed_others():
    first, again, other = (ArithmeticStream(seed, ALL_STEPS)[:300] for seed in (5, 5, 6))
    assert first == again
    shared = {question(problem) for problem in first} & {question(problem) for problem in other}
    assert len(shared) <= 5


def test_problems_do_not_depend_on_the_process():
    code = "from groat.tasks.arithmetic import ArithmeticStream; print(ArithmeticStream(5, (1, 2, 3))[7])"
    environment = {"PYTHONHASHSEED": "1"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(ArithmeticStream(5, ALL_STEPS)[7])


def test_a_problem_is_the_same_alone_and_in_a_slice():
    stream = ArithmeticStream(0, ALL_STEPS)
    assert stream[7] == stream[:10][7] == stream[7:8][0]
    assert stream[-1] == stream[19_999]
    assert len(stream) == 20_000
    with pytest.raises(IndexError):
        stream[20_000]


def test_held_out_problems_do_not_depend_on_the_seed():
    first, second = (build_task(TaskConfig(), seed).held_out for seed in (0, 1))
    assert first == second
    assert len(first) == 200


def test_held_out_lengths_take_turns_and_a_length_has_the_same_problems_in_every_mix():
    held_out = held_out_arithmetic((1, 2, 1))
    assert [problem.columns["num_steps"] for problem in held_out[:6]] == [1, 2, 1, 1, 2, 1]
    assert held_out[1::3] == held_out_arithmetic((2,))[: len(held_out[1::3])]


def test_no_held_out_text_or_exercise_is_trained_on():
    held_out = held_out_arithmetic(ALL_STEPS)
    texts = {question(problem) for problem in held_out}
    exercises = {numbers_removed(problem) for problem in held_out}
    assert len(texts) == 200
    for seed in (0, 1):
        for problem in ArithmeticStream(seed, ALL_STEPS)[:4000]:
            assert question(problem) not in texts
            assert numbers_removed(problem) not in exercises


def test_ids_are_unique():
    ids = [problem.id for problem in (*ArithmeticStream(0, ALL_STEPS)[:1000], *held_out_arithmetic(ALL_STEPS))]
    assert len(set(ids)) == 1200


def test_chosen_numbers_of_steps_are_kept_to():
    assert {problem.columns["num_steps"] for problem in ArithmeticStream(0, (2,))[:200]} == {2}
    counts = [problem.columns["num_steps"] for problem in ArithmeticStream(0, ALL_STEPS)[:3000]]
    assert all(900 < counts.count(length) < 1100 for length in ALL_STEPS)


def test_every_template_is_used_and_fits_its_operations():
    used = {numbers_removed(problem)[0] for problem in ArithmeticStream(0, ALL_STEPS)[:3000]}
    templates = [template for group in TEMPLATES.values() for template in group]
    assert len(used) == len(templates) >= 20
    for num_steps, group in TEMPLATES.items():
        for template in group:
            assert len(template.operations) == num_steps
            assert sorted(re.findall(r"\{([abcd])\}", template.text)) == list("abcd"[: num_steps + 1])


def test_questions_and_solutions_are_short():
    for problem in (*ArithmeticStream(0, ALL_STEPS)[:2000], *held_out_arithmetic(ALL_STEPS)):
        assert len(question(problem).split()) <= 32
        assert len(problem.columns["solution"]) <= 50


def test_worked_examples_come_before_every_problem_as_turns_that_went_well():
    task = build_task(TaskConfig(num_examples=3), 0)
    opening = arithmetic_opening(3)
    assert [message["role"] for message in opening] == ["user", "assistant"] * 3
    for problem in (*task.train[:20], *task.held_out[:20]):
        assert problem.prompt[:-1] == opening
        assert problem.prompt[-1]["role"] == "user"


def test_worked_examples_are_right_and_show_all_lengths_and_operations():
    for _, solution in WORKED_EXAMPLES:
        answer = solution.rpartition(" ")[2]
        assert correct_answer([solution], [answer]) == [1.0]
        assert written_steps([solution]) == [1.0]
    assert sorted(solution.count("=") for _, solution in WORKED_EXAMPLES[:3]) == [1, 2, 3]
    first = "".join(solution for _, solution in WORKED_EXAMPLES[:3])
    assert all(operation in first for group in TEMPLATES.values() for t in group for operation in t.operations)


def test_worked_examples_use_no_name_or_thing_of_the_problems():
    for text, _ in WORKED_EXAMPLES:
        assert not set(re.findall("[A-Za-z]+", text)) & {*NAMES, *THINGS}


def test_no_examples_and_a_system_prompt_leave_just_these_two_turns():
    task = build_task(TaskConfig(num_examples=0, system_prompt="Be brief."), 0)
    assert [message["role"] for message in task.train[0].prompt] == ["system", "user"]
    assert task.held_out[0].prompt[0] == {"role": "system", "content": "Be brief."}


def test_more_examples_than_there_are_is_an_error_that_says_how_many():
    with pytest.raises(UserError, match=r"num_examples is 99, but .* has \d worked examples: use \d or fewer"):
        build_task(TaskConfig(num_examples=99), 0)


def test_the_task_rewards_right_answers_most_then_right_steps_then_their_form():
    task = build_task(TaskConfig(), 0)
    assert [(reward.name, reward.weight) for reward in task.rewards] == [
        ("correct_answer", 1.0),
        ("right_steps", 0.5),
        ("written_steps", 0.2),
    ]


def test_evaluation_judges_arithmetic_by_the_number():
    task = build_task(TaskConfig(reward_funcs=("written_steps",)), 0)
    problem = task.train[0]
    assert task.is_correct(problem, f"Answer: {problem.columns['answer']}")
    assert not task.is_correct(problem, f"Answer: {int(problem.columns['answer']) + 1}")
    assert [reward.name for reward in task.rewards] == ["written_steps"]


def test_the_global_generator_is_left_alone():
    random.seed(1)
    before = random.getstate()
    build_task(TaskConfig(), 0).train[:50]
    assert random.getstate() == before
