"""The wording of the arithmetic word problems: situations whose sentences follow the order of the operations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """`operations` holds one of + - * / per step; each step applies to the result of the one before."""

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
    Template("+", "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?"),
    Template("+", "There are {a} red {things} and {b} blue {things}. How many {things} are there in total?"),
    Template("+", "{name} found {a} {things} today and {b} yesterday. How many {things} did {name} find?"),
    Template("-", "{name} had {a} {things} and gave away {b}. How many {things} are left?"),
    Template("-", "There were {a} {things} on a table. {name} took {b} of them. How many {things} are left?"),
    Template("-", "{name} wants {a} {things} and has {b}. How many more {things} does {name} need?"),
    Template("*", "There are {a} bags with {b} {things} in each bag. How many {things} are there?"),
    Template("*", "{name} buys {a} boxes of {b} {things}. How many {things} does {name} buy?"),
    Template("/", "{name} shares {a} {things} equally among {b} children. How many {things} does each child get?"),
    Template("/", "{name} puts {a} {things} into {b} equal piles. How many {things} are in each pile?"),
)

TWO_STEPS = (
    Template(
        "++", "{name} has {a} {things}, gets {b} more and then finds {c} more. How many {things} does {name} have?"
    ),
    Template(
        "+-", "{name} has {a} {things}. {name} buys {b} more and gives {c} to {friend}. How many {things} are left?"
    ),
    Template("-+", "A box had {a} {things}. {name} took out {b} and put in {c}. How many {things} are in the box now?"),
    Template("--", "{name} had {a} {things}, lost {b} and gave {c} to {friend}. How many {things} are left?"),
    Template("*+", "{name} has {a} bags of {b} {things} and {c} more {things}. How many {things} does {name} have?"),
    Template("*-", "{name} buys {a} boxes of {b} {things} and gives away {c}. How many {things} are left?"),
    Template(
        "+/",
        "{name} has {a} {things} and gets {b} more. {c} children share them equally. How many does each child get?",
    ),
    Template(
        "-/",
        "{name} has {a} {things} and loses {b}. {c} children share the rest equally. How many does each child get?",
    ),
    Template("*/", "{c} children share {a} bags of {b} {things} equally. How many {things} does each child get?"),
    Template("/+", "{b} children share {a} {things} equally. Each then gets {c} more. How many does each child have?"),
    Template("/-", "{b} children share {a} {things} equally. Each then loses {c}. How many does each child have left?"),
    Template("+-", "A bus has {a} people. {b} get on and {c} get off. How many people are on the bus now?"),
)

THREE_STEPS = (
    Template(
        "+-+", "A bus has {a} people. {b} get on, {c} get off and {d} get on. How many people are on the bus now?"
    ),
    Template(
        "++-", "{name} has {a} {things}, gets {b} more, finds {c} more and gives away {d}. How many {things} are left?"
    ),
    Template(
        "-+-", "A box had {a} {things}. {name} took out {b}, put in {c} and took out {d}. How many are in the box?"
    ),
    Template(
        "--+", "{name} had {a} {things}, lost {b}, gave away {c} and bought {d}. How many {things} are there now?"
    ),
    Template(
        "*+-", "{name} buys {a} boxes of {b} {things}, gets {c} more and gives away {d}. How many {things} are left?"
    ),
    Template(
        "*-+", "{name} buys {a} bags of {b} {things}, loses {c} and finds {d}. How many {things} does {name} have?"
    ),
    Template(
        "+-/",
        "{name} has {a} {things}, gets {b} more and loses {c}. {d} children share the rest equally. "
        "How many does each child get?",
    ),
    Template(
        "*-/",
        "{name} buys {a} boxes of {b} {things} and loses {c}. {d} children share the rest equally. "
        "How many does each child get?",
    ),
    Template(
        "*+/",
        "{name} has {a} bags of {b} {things} and {c} more {things}. {d} children share them equally. "
        "How many does each child get?",
    ),
    Template(
        "/+-",
        "{b} children share {a} {things} equally. Each then gets {c} more and loses {d}. "
        "How many does each child have left?",
    ),
)

TEMPLATES = {1: ONE_STEP, 2: TWO_STEPS, 3: THREE_STEPS}
"""By number of steps."""
