import runpy
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
SCRIPT = runpy.run_path(str(REPOSITORY / "scripts" / "forbidden_calls.py"))
problems_in, allowed_in = SCRIPT["problems_in"], SCRIPT["allowed_in"]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch as t\nt.load('x')",
        "from torch import load as read",
        "import torch\nread = torch.load",
        "eval('1')",
        "exec(text)",
        "import jinja2\njinja2.Environment()",
        "from jinja2 import Template",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text)",
    ],
)
def test_what_turns_data_into_code_is_found(source: str):
    assert [line for line, _ in problems_in(source)] == [source.count("\n") + 1]


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import re\nre.compile('a')",
        "from jinja2.sandbox import ImmutableSandboxedEnvironment",
        "import json\njson.load(file)",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "import safetensors.torch\nsafetensors.torch.load(data)",
        "eval_steps = 3",
    ],
)
def test_harmless_namesakes_pass(source: str):
    assert list(problems_in(source)) == []


def test_the_package_is_clean():
    files = (REPOSITORY / "src").rglob("*.py")
    found = {path.name: list(problems_in(path.read_text(), allowed_in(path))) for path in files}
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_programs_may_be_run_inside_the_sandbox_and_nowhere_else():
    sandbox = Path("src/groat/tasks/sandbox")
    assert list(problems_in("exec(text)", allowed_in(sandbox / "inside" / "program.py"))) == []
    assert [line for line, _ in problems_in("eval(text)", allowed_in(sandbox / "inside" / "program.py"))] == [1]
    assert [line for line, _ in problems_in("exec(text)", allowed_in(sandbox / "programs.py"))] == [1]
