"""The built-in task: arithmetic word problems of one to three steps with small numbers, made up from a seed."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from groat.tasks.arithmetic_templates import NAMES, TEMPLATES, THINGS, Template
from groat.tasks.made_problems import MadeProblems
from groat.types import Message, Problem, UserError

NUM_HELD_OUT = 200

Signature = tuple[str, tuple[int, ...]]
"""Template and numbers: what is left of an exercise when the names and the things are taken away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """A problem before it is put into chat turns."""

    text: str
    solution: str
    answer: int
    num_steps: int
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """From where to where numbers go, by the operation that they are in."""

    first: Mapping[str, tuple[int, int]]
    """The number that is there at the start."""
    later: Mapping[str, tuple[int, int]]
    """The number of a step."""
    largest_result: int
    """Of any step; the smallest is 1."""
    name: str = ""
    """Told apart by it from the problems of other sizes."""


SMALL = Sizes(
    first={"+": (2, 10), "-": (5, 15), "*": (2, 5)},
    later={"+": (1, 6), "-": (1, 6), "*": (2, 5)},
    largest_result=30,
)


@dataclass(frozen=True)
class ArithmeticStream(MadeProblems):
    """`length` training problems of one seed, each made when it is asked for.

    None repeats the template and numbers of a held-out exercise, whatever the names in it.
    """

    seed: int
    num_steps: tuple[int, ...]
    opening: tuple[Message, ...] = ()
    length: int = 20_000
    sizes: Sizes = SMALL
    _taken: frozenset[Signature] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_taken", _held_out_signatures(self.sizes))

    def made(self, position: int) -> Problem:
        name = f"{self.sizes.name}arithmetic"
        generator = random.Random(f"groat {name} train {self.seed} {position}")
        exercise = _new_exercise(generator, generator.choice(self.num_steps), self._taken, self.sizes)
        return _problem(f"{name}-{self.seed}-{position:05d}", exercise, self.opening)


def held_out_arithmetic(
    num_steps: Sequence[int], opening: tuple[Message, ...] = (), sizes: Sizes = SMALL
) -> tuple[Problem, ...]:
    """The same problems whatever the training seed; lengths take turns in the order of `num_steps`, so that the first
    ones are a fair share."""
    by_length = {length: _held_out_exercises(length, sizes) for length in set(num_steps)}
    seen = Counter[int]()
    problems: list[Problem] = []
    for length in itertools.islice(itertools.cycle(num_steps), NUM_HELD_OUT):
        exercise = by_length[length][seen[length]]
        problems.append(_problem(f"{sizes.name}arithmetic-held-out-{length}-{seen[length]:03d}", exercise, opening))
        seen[length] += 1
    return tuple(problems)


def arithmetic_opening(num_examples: int, system_prompt: str | None = None) -> tuple[Message, ...]:
    """The turns put before every problem: the system prompt, and worked examples as a chat that went well."""
    if num_examples > len(WORKED_EXAMPLES):
        raise UserError(
            f"task.num_examples is {num_examples}, but the arithmetic task has {len(WORKED_EXAMPLES)} worked examples: "
            f"use {len(WORKED_EXAMPLES)} or fewer"
        )
    turns: list[Message] = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    for problem, solution in WORKED_EXAMPLES[:num_examples]:
        turns += [{"role": "user", "content": problem}, {"role": "assistant", "content": solution}]
    return tuple(turns)


# Their names and things are in no generated problem. The first three show all lengths and operations; a model tends to
# write as many steps as the example before, so one of middle length comes last.
WORKED_EXAMPLES = (
    ("Ada had 9 pears and ate 4. How many pears are left?", "9 - 4 = 5\nAnswer: 5"),
    (
        "Cleo has 6 ribbons, buys 8 more, loses 2 and gives away 3. How many ribbons are left?",
        "6 + 8 = 14\n14 - 2 = 12\n12 - 3 = 9\nAnswer: 9",
    ),
    (
        "Ben has 3 jars of 4 shells and finds 5 more. How many shells does Ben have now?",
        "3 * 4 = 12\n12 + 5 = 17\nAnswer: 17",
    ),
    ("Dora picked 7 plums and 6 figs. How many fruits did Dora pick?", "7 + 6 = 13\nAnswer: 13"),
    (
        "Gus had 8 muffins, sold 5 and baked 4. How many muffins does Gus have now?",
        "8 - 5 = 3\n3 + 4 = 7\nAnswer: 7",
    ),
)


def _problem(identity: str, exercise: Exercise, opening: tuple[Message, ...]) -> Problem:
    return Problem(
        id=identity,
        prompt=(*opening, {"role": "user", "content": exercise.text}),
        columns={
            "answer": str(exercise.answer),
            "num_steps": exercise.num_steps,
            "solution": exercise.solution,
        },
    )


def _held_out_exercises(num_steps: int, sizes: Sizes) -> list[Exercise]:
    generator = random.Random(f"groat {sizes.name}arithmetic held-out {num_steps}")
    exercises: list[Exercise] = []
    taken: set[Signature] = set()
    while len(exercises) < NUM_HELD_OUT:
        exercises.append(_new_exercise(generator, num_steps, taken, sizes))
        taken.add(exercises[-1].signature)
    return exercises


def _held_out_signatures(sizes: Sizes) -> frozenset[Signature]:
    return frozenset(one.signature for num_steps in TEMPLATES for one in _held_out_exercises(num_steps, sizes))


def _new_exercise(generator: random.Random, num_steps: int, taken: Collection[Signature], sizes: Sizes) -> Exercise:
    while True:
        template = generator.choice(TEMPLATES[num_steps])
        numbers = tuple(_number(generator, template.operations, place, sizes) for place in range(num_steps + 1))
        results = _results(template.operations, numbers, sizes.largest_result)
        if results is not None and (template.text, numbers) not in taken:
            return _exercise(generator, template, numbers, results)


def _number(generator: random.Random, operations: str, place: int, sizes: Sizes) -> int:
    """Place 0 holds the number that is there at the start; place n the number of step n."""
    low, high = sizes.first[operations[0]] if place == 0 else sizes.later[operations[place - 1]]
    return generator.randint(low, high)


def _results(operations: str, numbers: tuple[int, ...], largest: int) -> list[int] | None:
    """The result of every step; None when one of them does not lie between 1 and the largest."""
    results: list[int] = []
    value = numbers[0]
    for operation, number in zip(operations, numbers[1:], strict=True):
        value = {"+": value + number, "-": value - number, "*": value * number}[operation]
        if not 1 <= value <= largest:
            return None
        results.append(value)
    return results


def _exercise(generator: random.Random, template: Template, numbers: tuple[int, ...], results: list[int]) -> Exercise:
    name, friend = generator.sample(NAMES, 2)
    words = dict(zip("abcd", numbers, strict=False))
    before = (numbers[0], *results)
    steps = [
        f"{before[place]} {operation} {numbers[place + 1]} = {results[place]}"
        for place, operation in enumerate(template.operations)
    ]
    return Exercise(
        text=template.text.format(name=name, friend=friend, things=generator.choice(THINGS), **words),
        solution="\n".join([*steps, f"Answer: {results[-1]}"]),
        answer=results[-1],
        num_steps=len(results),
        signature=(template.text, numbers),
    )
