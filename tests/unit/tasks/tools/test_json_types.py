"""Schemas of functions: by hand, and against transformers."""

from typing import Any, Literal

import pytest
from transformers.utils import get_json_schema

from groat.tasks.tools import function_tool
from groat.types import UserError


def forecast(city: str, days: int = 3, unit: Literal["C", "F"] = "C", weights: list[float] | None = None) -> str:
    """The weather of the next days.

    Rain is given in millimetres.

    Args:
        city: Where, such as
            Paris or Rome.
        days: How many days.
        unit: Of temperatures.
        weights: One for each day.

    Returns:
        A sentence.
    """
    return f"{city} {days} {unit} {weights}"


def look_up(table: dict[str, int], key: str | int, exact: bool, anything: Any) -> int:
    """Looks something up.

    Args:
        table: Numbers by name.
        key: What to look for.
        exact: Whether near ones count.
        anything: Not used.
    """
    return table[str(key)]


@pytest.mark.parametrize("function", [forecast, look_up])
def test_schemas_are_those_of_transformers(function: Any):
    theirs = get_json_schema(function)
    theirs["function"].pop("return", None)
    assert function_tool(function).schema == theirs


def test_a_schema_by_hand():
    assert function_tool(forecast).parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where, such as Paris or Rome."},
            "days": {"type": "integer", "description": "How many days."},
            "unit": {"type": "string", "enum": ["C", "F"], "description": "Of temperatures."},
            "weights": {
                "type": "array",
                "items": {"type": "number"},
                "nullable": True,
                "description": "One for each day.",
            },
        },
        "required": ["city"],
    }
    assert function_tool(forecast).description == "The weather of the next days.\n\nRain is given in millimetres."


def undocumented(city: str) -> str:
    return city


def unhinted(city) -> str:  # type: ignore[no-untyped-def]
    """Says it."""
    return city


def starred(*cities: str) -> str:
    """Says them."""
    return "".join(cities)


def strange(when: complex) -> str:
    """Says it."""
    return str(when)


def misspelt(city: "Strin") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Says it."""
    return city


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (undocumented, "undocumented has no docstring"),
        (unhinted, "no type hint for city"),
        (starred, "by name"),
        (strange, "complex.*has no JSON type"),
        (misspelt, "cannot be read: name 'Strin'"),
    ],
)
def test_functions_that_cannot_be_described_are_refused(function: Any, message: str):
    with pytest.raises(UserError, match=message):
        function_tool(function)
