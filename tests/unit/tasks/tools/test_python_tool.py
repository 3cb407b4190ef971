"""Python as a tool, in the sandbox."""

from collections.abc import Iterator

import pytest

from groat.tasks.tools import Tool, ToolEnvironments
from groat.tasks.tools.python_tool import python_tool


@pytest.fixture(scope="module")
def tool() -> Iterator[Tool]:
    made = python_tool(seconds=1.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("print(sum(range(10)))", "result: 45"),
        ("Here it is:\n```python\nprint('fenced')\n```", "result: fenced"),
        ("x = 1", "result: (nothing was printed)"),
        ("print('before')\n1 / 0", "error: before\nZeroDivisionError: division by zero"),
        ("while True: pass", "error: the program did not end within 1 s"),
        ("x = 'y' * 10**10", "error: MemoryError"),
        ("print('z' * 10_000_000)", "result: " + "z" * 50 + "..."),
        ("import urllib.request as r; r.urlopen('http://127.0.0.1')", "error: "),
        ("print(open('/etc/passwd').read())", "error: "),
        ("print('\\ud800'.encode('utf-8', 'surrogatepass'))", "result: b'"),
    ],
)
def test_what_the_model_is_told(tool: Tool, code: str, told: str):
    environments = ToolEnvironments(tools={"python": tool}, max_turns=2, most_characters=50)
    reply = environments.reply(f"call python: {code}")
    assert reply is not None
    assert reply.turns[0].content.startswith(told)
    assert reply.turns[0].has_failed == told.startswith("error")


def test_nothing_is_kept_between_calls(tool: Tool):
    assert tool.run(code="kept = 5\nopen('file', 'w').write('5')\nprint(kept)") == "5"
    environments = ToolEnvironments(tools={"python": tool}, max_turns=2)
    reply = environments.reply("call python: print(open('file').read())\ncall python: print(kept)")
    assert reply is not None
    first, second = reply.turns[0].content.split("\nerror: ")
    assert first.startswith("error: ")
    assert "FileNotFoundError" in first
    assert "NameError" in second
