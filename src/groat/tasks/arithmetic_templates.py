"""The wording of the arithmetic word problems: situations whose sentences follow the order of the operations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """`operations` holds one of + - * per step; each step applies to the result of the one before."""

    operations: str
    text: str
    """With {a}, {b}, ... for the numbers in the order of the steps, and {name}, {friend}, {things}."""


NAMES = (
    "Tom", "Mia", "Sam", "Lily", "Jack", "Emma", "Leo", "Anna", "Max", "Zoe",
    "Lucy", "Noah", "Ella", "Omar", "Ruth", "Paul", "Nina", "Carl", "Rosa", "Finn",
)  # fmt: skip

THINGS = (
    "apples", "books", "cookies", "marbles", "stickers", "pencils", "coins", "cards", "flowers", "eggs",
    "balls", "candies", "toys", "oranges", "stones", "stamps", "buttons", "beads", "nuts", "cups",
)  # fmt: skip

ONE_STEP = (
    Template("+", "{name} has {a} {things}. {name} buys {b} more. How many {things} does {name} have now?"),
    Template("+", "{name} has {a} {things} and finds {b} more. How many {things} does {name} have now?"),
    Template("+", "{name} had {a} {things}. {friend} gave {name} {b} more. How many {things} does {name} have now?"),
    Template("+", "There are {a} {things} in a box. {name} puts in {b} more. How many {things} are in the box?"),
    Template("+", "There are {a} red {things} and {b} blue {things}. How many {things} are there in total?"),
    Template("-", "{name} had {a} {things} and gave away {b}. How many {things} are left?"),
    Template("-", "{name} has {a} {things}. {name} loses {b}. How many {things} does {name} have now?"),
    Template("-", "There were {a} {things} on a table. {name} took {b} of them. How many {things} are left?"),
    Template("-", "{name} has {a} {things} and sells {b} to {friend}. How many {things} are left?"),
    Template("*", "There are {a} bags with {b} {things} in each bag. How many {things} are there?"),
    Template("*", "{name} buys {a} boxes of {b} {things}. How many {things} does {name} have?"),
)

TWO_STEPS = (
    Template("++", "{name} has {a} {things}. {name} gets {b} more and finds {c} more. How many {things} now?"),
    Template("++", "A box has {a} {things}. {name} puts in {b} and {friend} puts in {c}. How many {things} now?"),
    Template("+-", "{name} has {a} {things}, buys {b} more and loses {c}. How many {things} does {name} have now?"),
    Template("+-", "{name} has {a} {things}, finds {b} more and gives {c} to {friend}. How many {things} are left?"),
    Template("+-", "A bus has {a} people. {b} get on and {c} get off. How many people are on the bus now?"),
    Template("-+", "{name} had {a} {things}, lost {b} and bought {c}. How many {things} does {name} have now?"),
    Template("-+", "A box had {a} {things}. {name} took out {b} and put in {c}. How many {things} are in the box now?"),
    Template("--", "{name} had {a} {things}, lost {b} and gave {c} to {friend}. How many {things} are left?"),
    Template("--", "A bus had {a} people. {b} got off, then {c} got off. How many people are left on the bus?"),
    Template("*+", "{name} has {a} bags of {b} {things} and finds {c} more. How many {things} does {name} have now?"),
    Template("*-", "{name} buys {a} boxes of {b} {things} and gives away {c}. How many {things} are left?"),
)

THREE_STEPS = (
    Template("+-+", "A bus has {a} people. {b} get on, {c} get off and {d} get on. How many people are on it now?"),
    Template("-+-", "A box had {a} {things}. {name} took out {b}, put in {c} and took out {d}. How many are left?"),
    Template("++-", "{name} has {a} {things}, gets {b} more, finds {c} more and loses {d}. How many are left?"),
    Template("+--", "{name} has {a} {things}, buys {b} more, loses {c} and gives away {d}. How many are left?"),
    Template("--+", "{name} had {a} {things}, lost {b}, gave away {c} and bought {d}. How many are there now?"),
    Template("+++", "{name} has {a} {things}, finds {b} more, buys {c} more and gets {d} more. How many {things} now?"),
)

TEMPLATES = {1: ONE_STEP, 2: TWO_STEPS, 3: THREE_STEPS}
"""By number of steps."""
