"""Numbers are read exactly, as people write them; what is no number is None."""

from __future__ import annotations

from fractions import Fraction

import pytest

from groat.tasks.numbers import Number, last_number, parsed_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("\u22125", -5),
        ("+5.", 5),
        ("1,234,567.50", Fraction(123456750, 100)),
        ("1 234", 1234),
        ("1\u202f234\u202f567", 1234567),
        (r"14{,}916", 14916),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("-3 / 4", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("-2 1/4", Fraction(-9, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"\frac34", Fraction(3, 4)),
        (r"2\frac{1}{3}", Fraction(7, 3)),
        ("2e-3", Fraction(1, 500)),
        (r"1.5 \times 10^{3}", 1500),
        ("1.5*10**3", 1500),
        ("$12", 12),
        (r"\$1,000.99", Fraction(100099, 100)),
        ("12 €", 12),
    ],
)
def test_a_number_is_read_exactly(text: str, value: Fraction):
    assert parsed_number(text) == Number(Fraction(value))


@pytest.mark.parametrize(
    "text",
    ["", "x", "1,23", "12,34,567", "1..2", "1/0", r"\frac{1}{0}", "2^3", "1e9999", "--5", "\u0665", "12 apples",
     "9" * 61, "1 2", "0x10", "1_000", "nan", "inf", "5!", "__import__('os')"],
)  # fmt: skip
def test_what_is_no_plain_number_is_none(text: str):
    assert parsed_number(text) is None


@pytest.mark.parametrize(
    "text",
    ["12 apples", "12km/h", r"12 \text{ cm}", r"12 \mathrm{cm}^2", "12 m2", "12°", r"12^\circ", "12 square meters",
     "$12 per day."],
)  # fmt: skip
def test_units_are_left_out_when_asked(text: str):
    assert parsed_number(text, units=True) == Number(Fraction(12))
    assert parsed_number(text) is None


@pytest.mark.parametrize("text", ["12 or 13", "12 + x", "12 = 12"])
def test_a_second_number_is_no_unit(text: str):
    assert parsed_number(text, units=True) is None


def test_half_is_fifty_percent_and_fifty_percent_is_fifty():
    percentage = parsed_number("50%")
    assert (
        percentage == Number(Fraction(50), is_percentage=True) == parsed_number(r"50\%") == parsed_number("50 percent")
    )
    for other in ("50", "0.5", "50%"):
        number = parsed_number(other)
        assert number is not None
        assert percentage.equals(number)
        assert number.equals(percentage)
    assert not percentage.equals(Number(Fraction(5)))
    assert not Number(Fraction(50)).equals(Number(Fraction(1, 2)))


def test_the_tolerance_is_relative_to_the_other_number():
    assert Number(Fraction(101)).equals(Number(Fraction(100)), tolerance=0.01)
    assert not Number(Fraction(102)).equals(Number(Fraction(100)), tolerance=0.01)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3 then 4.", 4), ("costs $1,250 in all", 1250), ("it is -7", -7), ("about 3/4 of it", Fraction(3, 4))],
)
def test_the_last_number_of_a_text(text: str, value: Fraction):
    assert last_number(text) == Number(Fraction(value))
