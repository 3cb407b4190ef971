import json
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from groat.cli.main import HELP, main
from groat.config.load import read_yaml
from groat.config.presets import read_preset
from groat.config.tree import RunConfig
from groat.types import UserError


@dataclass(frozen=True)
class Summary:
    reward: float
    folder: Path


class Calls:
    """Stands for groat.training.run and groat.tracking.console: records what the command line asked for."""

    def __init__(self) -> None:
        self.config: RunConfig | None = None
        self.resumed: tuple[Path, int | None] | None = None
        self.quiet: bool | None = None
        self.only_prime: bool | None = None
        self.failure: BaseException | None = None

    def train(self, config: RunConfig, console: object, *, only_prime: bool) -> Summary:
        self.config, self.only_prime = config, only_prime
        Path(config.output_dir.replace("{name}", "m-t-1")).mkdir(parents=True)
        return self._end()

    def resume(self, run_folder: Path, console: object, max_steps: int | None) -> Summary:
        self.resumed = (run_folder, max_steps)
        return self._end()

    def make_console(self, quiet: bool) -> object:
        self.quiet = quiet
        return object()

    def _end(self) -> Summary:
        if self.failure is not None:
            raise self.failure
        return Summary(reward=0.5, folder=Path("runs/x"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    calls = Calls()
    run, console = types.ModuleType("groat.training.run"), types.ModuleType("groat.tracking.console")
    run.__dict__.update(train=calls.train, resume=calls.resume)
    console.__dict__["Console"] = calls.make_console
    monkeypatch.setitem(sys.modules, "groat.training.run", run)
    monkeypatch.setitem(sys.modules, "groat.tracking.console", console)
    monkeypatch.chdir(tmp_path)
    return calls


# train


def test_without_a_recipe_the_demo_is_trained(calls: Calls, capsys: pytest.CaptureFixture[str]):
    assert main(["train"]) == 0
    assert calls.config == read_preset("demo")
    assert calls.only_prime is False
    assert capsys.readouterr().out.startswith("recipe: demo (built in")


def test_a_folder_called_demo_does_not_hide_the_recipe(calls: Calls):
    Path("demo").mkdir()
    assert main(["train"]) == 0
    assert calls.config == read_preset("demo")


def test_priming_takes_the_flags_of_training_and_stops_behind_the_cold_start(calls: Calls):
    assert main(["prime", "--cold-start.examples", "x.jsonl", "--cold-start.reference", "base"]) == 0
    assert calls.only_prime
    assert calls.config is not None
    assert (calls.config.cold_start.examples, calls.config.cold_start.reference) == ("x.jsonl", "base")


def test_flags_alone_change_the_demo(calls: Calls):
    assert main(["train", "--seed", "5"]) == 0
    assert calls.config is not None
    assert (calls.config.seed, calls.config.sampling) == (5, read_preset("demo").sampling)


def test_flags_go_over_the_recipe(calls: Calls):
    Path("mine.yaml").write_text("seed: 4\nlora: {r: 2}\n")
    assert main(["train", "--quiet", "mine.yaml", "--lora.r", "3"]) == 0
    assert calls.config is not None
    assert (calls.config.seed, calls.config.lora.r, calls.quiet) == (4, 3, True)


def test_dry_run_prints_a_recipe_that_reads_back(calls: Calls, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "--dry-run", "--max-steps", "3"]) == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    assert read_yaml(Path("printed.yaml")).training.max_steps == 3
    assert calls.config is None


def test_json_ends_with_the_summary(calls: Calls, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"reward": 0.5, "folder": "runs/x"}


def test_missing_recipe_is_answered_with_near_ones(calls: Calls, capsys: pytest.CaptureFixture[str]):
    Path("recipes").mkdir()
    Path("recipes/arithmetic.yaml").touch()
    assert main(["train", "arithmetic"]) == 2
    assert "there is no recipe 'arithmetic': did you mean recipes/arithmetic.yaml?" in _unwrapped(capsys)
    assert main(["train", "demo.yml"]) == 2
    assert "did you mean demo or dapo?" in _unwrapped(capsys)
    assert main(["train", "zzz"]) == 2
    assert "known are dapo, demo, recipes/arithmetic.yaml, and any YAML file" in _unwrapped(capsys)


# How a run ends


def test_user_error_is_one_paragraph_and_exit_code_2(calls: Calls, capsys: pytest.CaptureFixture[str]):
    calls.failure = UserError("model.name is 'x', " + "which is nowhere " * 20)
    assert main(["train"]) == 2
    captured = capsys.readouterr().err
    assert captured.startswith("error: model.name is 'x', which")
    assert "Traceback" not in captured
    assert max(map(len, captured.splitlines())) <= 100


def test_traceback_flag_shows_where_a_user_error_came_from(calls: Calls, capsys: pytest.CaptureFixture[str]):
    calls.failure = UserError("no such model")
    assert main(["--traceback", "train"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_exits_with_130_and_says_how_to_go_on(calls: Calls, capsys: pytest.CaptureFixture[str]):
    calls.failure = KeyboardInterrupt()
    assert main(["train", "--output-dir", "runs/{name}"]) == 130
    captured = capsys.readouterr().err
    assert "groat resume runs/m-t-1" in captured
    assert "Traceback" not in captured


def test_unexpected_error_shows_its_traceback_and_the_run_folder(calls: Calls, capsys: pytest.CaptureFixture[str]):
    calls.failure = ZeroDivisionError("oh")
    assert main(["train", "--output-dir", "runs/mine"]) == 1
    captured = capsys.readouterr().err
    assert "Traceback" in captured
    assert captured.splitlines()[-1] == "the run is in runs/mine; go on with it: groat resume runs/mine"


# The other commands


def test_resume_hands_over_folder_and_steps(calls: Calls):
    Path("run").mkdir()
    assert main(["resume", "run", "--max-steps", "9"]) == 0
    assert calls.resumed == (Path("run"), 9)


def test_resume_of_nothing_is_a_user_error(calls: Calls, capsys: pytest.CaptureFixture[str]):
    assert main(["resume", "nowhere"]) == 2
    assert "there is no run in nowhere" in capsys.readouterr().err
    assert calls.resumed is None


def test_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert main(["trian"]) == 2
    assert "did you mean `groat train`?" in capsys.readouterr().err


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_names_every_command(args: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(args) == 0
    assert capsys.readouterr().out == HELP
    assert all(f"  {command} " in HELP for command in ("train", "resume", "runs", "bench w1", "doctor"))


def test_doctor_answers_as_json(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert "torch 2." in findings["packages"]
    assert "GiB" in findings["memory"]


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["train", "--help"], ["train", "--dry-run"]])
def test_light_commands_load_no_torch(args: list[str]):
    code = (
        "import sys\nfrom groat.cli.main import main\n"
        f"try: main({args!r})\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'numpy'} & set(sys.modules), 'heavy imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def _unwrapped(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())
