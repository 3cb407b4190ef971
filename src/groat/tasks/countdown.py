"""The countdown task: reach a target with given numbers, each used once, and + - * /. Made up from a seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from groat.tasks.explained import Explained
from groat.tasks.extraction import marked_answer, said_text
from groat.tasks.made_problems import MadeProblems
from groat.tasks.safe_arithmetic import Evaluated, NoExpressionError, evaluated
from groat.tasks.verifiers import Completions, completion_text
from groat.types import Message, Problem, UserError

NUM_HELD_OUT = 200
LARGEST_OPERAND = 20
LARGEST_TARGET = 100
_HELD_OUT_SHARE = 16
"""One of so many sets of numbers and target is held out, by a hash of both."""

INSTRUCTION = (
    "Use the numbers {nums} and the operations + - * / to reach {target}. Use each number exactly once. "
    "End with a line such as: Answer: (1 + 2) * 3"
)
WORKED_EXAMPLES = (
    ((2, 3, 4), 20, "3 + 2 = 5\n5 * 4 = 20\nAnswer: (3 + 2) * 4"),
    ((5, 6, 8), 43, "8 * 6 = 48\n48 - 5 = 43\nAnswer: 8 * 6 - 5"),
    ((1, 7, 9), 15, "9 + 7 = 16\n16 - 1 = 15\nAnswer: 9 + 7 - 1"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    nums: tuple[int, ...]
    target: int
    solution: str


@dataclass(frozen=True)
class CountdownStream(MadeProblems):
    """`length` training problems of one seed, each made when it is asked for; none is a held-out one."""

    seed: int
    num_operands: tuple[int, ...]
    opening: tuple[Message, ...] = ()
    length: int = 20_000

    def made(self, position: int) -> Problem:
        generator = random.Random(f"groat countdown train {self.seed} {position}")
        exercise = _exercise(generator, generator.choice(self.num_operands), is_held_out=False)
        return _problem(f"countdown-{self.seed}-{position:05d}", exercise, self.opening)


def held_out_countdown(num_operands: Sequence[int], opening: tuple[Message, ...] = ()) -> tuple[Problem, ...]:
    """The same problems whatever the training seed; sizes take turns in the order of `num_operands`."""
    generator = random.Random("groat countdown held-out")
    return tuple(
        _problem(
            f"countdown-held-out-{place:03d}",
            _exercise(generator, num_operands[place % len(num_operands)], is_held_out=True),
            opening,
        )
        for place in range(NUM_HELD_OUT)
    )


def countdown_opening(num_examples: int, system_prompt: str | None = None) -> tuple[Message, ...]:
    """The turns put before every problem: the system prompt, and worked examples as a chat that went well."""
    if num_examples > len(WORKED_EXAMPLES):
        raise UserError(
            f"task.num_examples is {num_examples}, but the countdown task has {len(WORKED_EXAMPLES)} worked examples: "
            f"use {len(WORKED_EXAMPLES)} or fewer"
        )
    turns: list[Message] = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    for nums, target, solution in WORKED_EXAMPLES[:num_examples]:
        turns += [_question(nums, target), {"role": "assistant", "content": solution}]
    return tuple(turns)


def countdown_answer(
    completions: Completions, nums: Sequence[Sequence[int]], target: Sequence[int], **_: Any
) -> list[float]:
    """1 if the answer uses every number of `nums` once and no other, with + - * /, and equals `target`, else 0."""
    rows = zip(completions, nums, target, strict=True)
    return [answer_verdict(completion_text(completion), numbers, wanted) for completion, numbers, wanted in rows]


def countdown_numbers(completions: Completions, nums: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """1 if the answer is an expression that uses every number of `nums` once and no other, else 0."""
    rows = zip(completions, nums, strict=True)
    return [_numbers_verdict(completion_text(completion), numbers) for completion, numbers in rows]


def answer_verdict(text: str, nums: Sequence[int], target: int) -> Explained:
    form = _numbers_verdict(text, nums)
    if form < 1:
        return form
    value = _answer(text).value
    return Explained(1.0, f"is {target}") if value == target else Explained(0.0, f"is {value}, not {target}"[:150])


def _numbers_verdict(text: str, nums: Sequence[int]) -> Explained:
    try:
        used = _answer(text).numbers
    except NoExpressionError as error:
        return Explained(0.0, str(error))
    if sorted(used) != sorted(nums):
        return Explained(0.0, f"uses {sorted(used)}, not {sorted(nums)}")
    return Explained(1.0, "uses every number once")


def _answer(text: str) -> Evaluated:
    """The marked answer, or the last line of the text; `= 24` behind it is left out."""
    marked = marked_answer(text)
    expression = said_text(text).rpartition("\n")[2] if marked is None else marked
    return evaluated(expression.strip().strip("$").partition("=")[0])


def _problem(identity: str, exercise: Exercise, opening: tuple[Message, ...]) -> Problem:
    return Problem(
        id=identity,
        prompt=(*opening, _question(exercise.nums, exercise.target)),
        columns={
            "nums": list(exercise.nums),
            "target": exercise.target,
            "answer": exercise.solution,
        },
    )


def _question(nums: Sequence[int], target: int) -> Message:
    return {"role": "user", "content": INSTRUCTION.format(nums=", ".join(map(str, nums)), target=target)}


def _exercise(generator: random.Random, num_operands: int, is_held_out: bool) -> Exercise:
    """A random way to combine random numbers whose value is a whole number from 1 to LARGEST_TARGET."""
    while True:
        nums = tuple(generator.randint(1, LARGEST_OPERAND) for _ in range(num_operands))
        value, solution = _combined(generator, [(Fraction(number), str(number)) for number in nums])
        if value.denominator == 1 and 1 <= value <= LARGEST_TARGET and _is_held_out(nums, int(value)) == is_held_out:
            return Exercise(nums=nums, target=int(value), solution=solution)


def _combined(generator: random.Random, parts: list[tuple[Fraction, str]]) -> tuple[Fraction, str]:
    """Two random parts become one, until one is left; division only where it leaves no remainder."""
    while len(parts) > 1:
        (left, left_text), (right, right_text) = (parts.pop(generator.randrange(len(parts))) for _ in range(2))
        signs = "+-*/" if right != 0 and (left / right).denominator == 1 else "+-*"
        sign = generator.choice(signs)
        value = {"+": left + right, "-": left - right, "*": left * right}.get(sign)
        parts.append((left / right if value is None else value, f"({left_text} {sign} {right_text})"))
    value, text = parts[0]
    return value, text.removeprefix("(").removesuffix(")") if text.startswith("(") else text


def _is_held_out(nums: Sequence[int], target: int) -> bool:
    digest = hashlib.sha256(f"{sorted(nums)} {target}".encode()).digest()
    return digest[0] % _HELD_OUT_SHARE == 0
