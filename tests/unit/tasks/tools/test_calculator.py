import pytest

from groat.tasks.tools import ToolError
from groat.tasks.tools.calculator import calculator, value_of


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(12 + 8) * 3.5", "70"),
        ("1 / 3", "0.3333333333"),
        ("0.1 + 0.2", "0.3"),  # exactly: floats would give 0.30000000000000004
        ("12,345 - 45", "12300"),
        ("1,2 + 3", None),  # not a thousands' comma
        ("7 - 10 =", "-3"),
        ("2 / 0", None),
        ("9 ** 9 ** 9", None),
        ("__import__('os')", None),
        ("1 + " * 60 + "1", None),
        ("", None),
    ],
)
def test_values(expression: str, value: str | None):
    if value is None:
        with pytest.raises(ToolError):
            value_of(expression)
    else:
        assert value_of(expression) == value


def test_it_is_a_tool_with_one_text():
    tool = calculator()
    assert tool.run(expression="2*3") == "6"
    assert tool.parameters["required"] == ["expression"]
    assert tool.schema["function"]["name"] == "calculator"
