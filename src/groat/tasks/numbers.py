"""Reading a number the way people write it, exactly, and in bounded time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST_CHARACTERS = 200
"""A longer text is no number."""

# [0-9], not \d: digits of other scripts are no answer.
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}|[0-9]{1,60})(?:\.[0-9]{0,60})?|\.[0-9]{1,60}"
_SIGN = r"[+-]? ?"
_PLAIN = re.compile(rf"({_SIGN})({_DIGITS})(?:[eE]([+-]?[0-9]{{1,3}}))?")
_POWER_OF_TEN = re.compile(
    rf"({_SIGN})({_DIGITS}) ?(?:\\times|\\cdot|\u00d7|\*|x) ?10 ?(?:\^|\*\*) ?\{{?([+-]?[0-9]{{1,3}})\}}?"
)
_RATIO = re.compile(rf"({_SIGN})({_DIGITS}) ?/ ?({_DIGITS})")
_LATEX_RATIO = re.compile(rf"({_SIGN})\\[dt]?frac ?\{{ ?({_SIGN})({_DIGITS}) ?\}} ?\{{ ?({_DIGITS}) ?\}}")
_SHORT_RATIO = re.compile(r"([+-]? ?)\\[dt]?frac ?([0-9]) ?([0-9])")
_MIXED = re.compile(r"([+-]? ?)([0-9]{1,15}) ([0-9]{1,15}) ?/ ?([0-9]{1,15})")
_LATEX_MIXED = re.compile(r"([+-]? ?)([0-9]{1,15}) ?\\[dt]?frac ?\{ ?([0-9]{1,15}) ?\} ?\{ ?([0-9]{1,15}) ?\}")
_CURRENCY = re.compile(r"\\\$|[$€£¥₹]|\b(?:USD|EUR|GBP)\b")
_SPACES = re.compile(r"\\[,;:! ]|\\q?quad|[\s\u00a0\u2009\u202f~]+")
_PERCENT = re.compile(r" ?(?:\\?%|percent)$")
_GROUPED = re.compile(r"(?<=[0-9]) (?=[0-9]{3}(?![0-9]))")
_WORD = r"[^\W\d_]{1,30}[23²³]?"
_UNIT = re.compile(
    r" ?(?:\\(?:text|mathrm|textrm|operatorname)\{[^{}]{0,60}\}|°|\^ ?\{?\\circ\}?|"
    + rf"{_WORD}(?:[ /·-]{_WORD}){{0,6}})"
    r"(?:\^\{?[0-9]\}?)?\.?$"
)
_IN_TEXT = re.compile(rf"(?<![0-9.,/])[-\u2212]?[$€£¥]?(?:{_DIGITS})(?:/[0-9]{{1,60}})?(?: ?\\?%)?")


@dataclass(frozen=True, slots=True)
class Number:
    """A number and whether a percent sign followed it."""

    value: Fraction
    is_percentage: bool = False

    def equals(self, other: Number, tolerance: float = 0.0) -> bool:
        """Exactly, or within `tolerance` of the other's size. 50% equals 50%, 50 and 0.5."""
        mine = {self.value}
        if self.is_percentage != other.is_percentage:
            percentage, plain = (self, other) if self.is_percentage else (other, self)
            mine = {percentage.value, percentage.value / 100}
            other = plain
        room = abs(other.value) * Fraction(tolerance)
        return any(abs(value - other.value) <= room for value in mine)


def parsed_number(text: str, *, units: bool = False) -> Number | None:
    r"""`-1,234.5`, `1 234`, `3/4`, `1 1/2`, `\frac{3}{4}`, `1.5 \times 10^3`, `2e-5`, `$12`, `50%`; None for all else.

    With `units`, a unit or other words behind the number are left out: `12 km/h`, `5 \text{ cm}^2`, `90°`.
    """
    if len(text) > LONGEST_CHARACTERS:
        return None
    plain = _cleaned(text)
    is_percentage = _PERCENT.search(plain) is not None
    plain = _PERCENT.sub("", plain)
    value = _value(plain)
    if value is None and units:
        value = _value(_UNIT.sub("", plain).strip())
    return None if value is None else Number(value, is_percentage)


def last_number(text: str) -> Number | None:
    """The last number that stands in a text."""
    found = None
    for match in _IN_TEXT.finditer(text):
        found = match
    return None if found is None else parsed_number(found.group())


def _cleaned(text: str) -> str:
    plain = text.replace("{,}", ",").replace("\u2212", "-").replace("\\left", "").replace("\\right", "")
    plain = _SPACES.sub(" ", plain).strip().removesuffix(".").strip()
    plain = _CURRENCY.sub("", plain).strip()
    return _GROUPED.sub("", plain) if _MIXED.fullmatch(plain) is None else plain


def _value(text: str) -> Fraction | None:
    if match := _PLAIN.fullmatch(text):
        return _signed(match[1], _decimal(match[2]) * _power_of_ten(match[3]))
    if match := _POWER_OF_TEN.fullmatch(text):
        return _signed(match[1], _decimal(match[2]) * _power_of_ten(match[3]))
    if match := _RATIO.fullmatch(text):
        return _ratio(match[1], _decimal(match[2]), _decimal(match[3]))
    if match := _LATEX_RATIO.fullmatch(text):
        return _ratio(match[1], _signed(match[2], _decimal(match[3])), _decimal(match[4]))
    if match := _SHORT_RATIO.fullmatch(text):
        return _ratio(match[1], _decimal(match[2]), _decimal(match[3]))
    if match := _MIXED.fullmatch(text) or _LATEX_MIXED.fullmatch(text):
        part = _ratio("", _decimal(match[3]), _decimal(match[4]))
        return None if part is None else _signed(match[1], int(match[2]) + part)
    return None


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").removesuffix("."))


def _power_of_ten(exponent: str | None) -> Fraction:
    return Fraction(10) ** int(exponent or 0)


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign.strip() == "-" else value


def _ratio(sign: str, above: Fraction, below: Fraction) -> Fraction | None:
    return None if below == 0 else _signed(sign, above / below)
