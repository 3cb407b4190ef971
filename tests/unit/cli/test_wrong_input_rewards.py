"""A reward function that fails at step 3: one paragraph, exit code 2, and the first two steps are kept."""

import time
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import REWARDS, events_of, groat, record_of, refusal, write_recipe

SPOILT = """
import time
calls = 0

def letters(completions, **_):
    global calls
    calls += 1
    values = [sum(map(str.isalpha, text)) / 8 for text in completions]
    if calls < 3:
        return values
    {line}
"""
"""Good for two steps; evaluation is off."""

WRONG = {
    "raises": ("1 / 0", "raised ZeroDivisionError: division by zero (rewards.py, line 11) (called with 8 completions"),
    "exits": ("raise SystemExit(3)", "raised SystemExit: 3"),
    "nan": ("return [1.0, float('nan')] * 4", "returned nan (float); rewards must be finite"),
    "infinity": ("return [float('inf')] * 8", "returned inf (float); rewards must be finite"),
    "nothing": ("return None", "returned None (NoneType); it must return a list with one number per completion"),
    "one number": ("return 1.0", "returned 1.0 (float); it must return a list with one number per completion"),
    "a list of one": ("return [1.0]", "returned 1 value for 8 completions"),
    "one too many": ("return [1.0] * 9", "returned 9 values for 8 completions"),
    "text": ("return ['1'] * 8", "returned '1' (str); each value must be a number or None"),
    "yes and no": ("return [True] * 8", "returned True (bool); write float(...) around it"),
    "only None": ("return [None] * 8", "returned None; at least one function must apply to each completion"),
    "hangs": ("time.sleep(600)", "did not return within 2 s"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run with a reward function that never fails."""
    folder = write_recipe(tmp_path_factory.mktemp("whole"), **CHANGES)
    assert groat(folder, "train", "recipe.yaml").exit_code == 0
    return record_of(folder / "run")


CHANGES: dict[str, Any] = {
    "training": {"max_steps": 4, "save_steps": 10},
    "evaluation": {"num_problems": 0},
    "task": {"reward_timeout_seconds": 2.0},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_reward_that_goes_wrong_ends_the_run_and_nothing_is_lost(
    tmp_path: Path, whole: dict[str, Any], name: str
) -> None:
    line, message = WRONG[name]
    folder = write_recipe(tmp_path, **CHANGES)
    (folder / "rewards.py").write_text(SPOILT.format(line=line))
    started = time.monotonic()
    told = refusal(groat(folder, "train", "recipe.yaml"))
    # A process that waited for the hanging thread would take ten minutes.
    assert time.monotonic() - started < 60
    assert told.startswith("error: reward function letters ")
    assert message in told
    assert told.endswith("Once that is put right, go on from step 2: groat resume run")
    assert [path.name for path in (folder / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    [(kind, event)] = events_of(folder / "run")
    assert (kind, message in event) == ("error", True)
    (folder / "rewards.py").write_text(REWARDS)
    assert groat(folder, "resume", "run").exit_code == 0
    assert record_of(folder / "run") == whole


def test_a_reward_that_fails_at_once_can_be_mended_and_the_run_begun_again(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path, training={"max_steps": 2})
    (folder / "rewards.py").write_text("def letters(completions, **_):\n    return 1 / 0\n")
    told = refusal(groat(folder, "train", "recipe.yaml"))
    assert told.endswith("Once that is put right, go on: groat resume run")
    (folder / "rewards.py").write_text(REWARDS)
    resumed = groat(folder, "resume", "run")
    assert resumed.exit_code == 0
    assert "step 2/2" in resumed.output
