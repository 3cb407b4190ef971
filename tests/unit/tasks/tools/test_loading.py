"""Tools and environments as recipes name them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from groat.config.tree import TaskConfig
from groat.tasks.task import build_task
from groat.tasks.tools import ToolEnvironments
from groat.tasks.tools.loading import environments_from, tools_from
from groat.types import Problem, UserError

OWN = '''
def shout(text: str) -> str:
    """Says it loudly."""
    return text.upper()

class Twice:
    def __init__(self, problem):
        self.left = problem.columns["times"]

    def reply(self, text):
        self.left -= 1
        return None if self.left < 0 else text + text
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def test_built_in_tools_and_functions_of_files(file: Path):
    config = TaskConfig(tools=("calculator", f"{file}:shout"), max_turns=5, max_tool_characters=3)
    environments = environments_from(config)
    assert isinstance(environments, ToolEnvironments)
    assert list(environments.tools) == ["calculator", "shout"]
    assert environments.max_turns == 5
    reply = environments.reply("call shout: hello")
    assert reply is not None
    assert reply.turns[0].content == "result: HEL... (2 characters more)"
    assert environments_from(TaskConfig()) is None


def test_an_environment_is_made_for_every_completion(file: Path):
    environments = environments_from(TaskConfig(environment=f"{file}:Twice"))
    assert environments is not None
    problem = Problem(id="p", prompt="", columns={"times": 1})
    first, second = environments.begin(problem), environments.begin(problem)
    assert [turn.content for turn in first.reply("a").turns] == ["aa"]  # type: ignore[union-attr]
    assert first.reply("b") is None
    assert second.reply("c") is not None


def test_the_environment_of_the_docs_plays(tmp_path: Path):
    docs = (Path(__file__).parents[4] / "docs" / "tools.md").read_text()
    [code] = re.findall(r"```python\n# guess.py\n(.*?)```", docs, re.DOTALL)
    (tmp_path / "guess.py").write_text(code)
    environments = environments_from(TaskConfig(environment=f"{tmp_path / 'guess.py'}:Guess"))
    assert environments is not None
    game = environments.begin(Problem(id="p", prompt="", columns={"number": 7}))
    told = [game.reply(text) for text in ("five", "5", "9", "7")]
    assert [None if one is None else one.turns[0].content for one in told] == [  # type: ignore[union-attr]
        "Write a number.",
        "Higher.",
        "Lower.",
        None,
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": ("calculater",)}, "no tool 'calculater': built in are calculator, python"),
        ({"tools": ("calculator", "calculator")}, "two tools are called calculator"),
        ({"tools": ("{file}:whisper",)}, "has no function 'whisper'"),
        ({"environment": "Twice"}, "'Twice' does not name an environment: write path/to/file.py:name"),
    ],
)
def test_what_is_not_there_is_named(file: Path, options: dict[str, object], message: str):
    given = {
        name: value.format(file=file) if isinstance(value, str) else tuple(one.format(file=file) for one in value)  # type: ignore[attr-defined]
        for name, value in options.items()
    }
    with pytest.raises(UserError, match=message):
        environments_from(TaskConfig(**given))  # type: ignore[arg-type]


def test_plain_text_prompts_are_refused_with_the_way_out(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2 + 3?", "answer": "5"}\n{"prompt": "2 + 4?", "answer": "6"}\n')
    task = build_task(TaskConfig(name=str(tmp_path / "rows.jsonl"), tools=("calculator",)), 0)
    assert task.environments is not None
    with pytest.raises(UserError, match=r"needs chat turns.*set task.chat"):
        task.environments.shown(task.train[0])


def test_tools_and_an_environment_exclude_each_other():
    with pytest.raises(ValueError, match=r"in place of task\.tools"):
        TaskConfig(tools=("calculator",), environment="a.py:b")


def test_functions_come_by_their_names():
    def twice(number: int) -> int:
        """Doubles."""
        return 2 * number

    assert tools_from([twice], 1.0)["twice"].run(number=4) == 8
