import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from conversation_rows import CONVERSATION
from run_rows import HALF_RIGHT, MOSTLY_RIGHT, rollout

from groat.cli.run_report import best_and_worst, rollout_report, sparkline, thinned
from groat.cli.runs import list_runs, show_run
from groat.config.load import to_yaml
from groat.config.tree import RunConfig
from groat.tracking.folder import RunFolder, write_atomically
from groat.tracking.lock import RunLock
from groat.tracking.store import RunStore
from groat.types import UserError


def make_run(path: Path, num_steps: int = 3) -> RunFolder:
    folder = RunFolder.create(path)
    write_atomically(folder.config_path, to_yaml(RunConfig()).encode())
    with RunStore(folder.store_path) as store:
        store.record_evaluation(0, HALF_RIGHT, [])
        for step in range(1, num_steps + 1):
            rollouts = [rollout(0, 0, "right", 1.0), rollout(0, 1, "wrong\x1b[2J", 0.0)]
            metrics = {"reward": step / 4, "loss": math.nan}
            store.record_step(step, metrics, {"step_time": 60.0, "peak_gib": 2 + step / 4}, rollouts)
        store.record_evaluation(num_steps, MOSTLY_RIGHT, [])
        store.record_event(2, "canary", "it sings")
    return folder


def listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    list_runs(folder, as_json=True)
    return json.loads(capsys.readouterr().out)


def test_a_listed_run_shows_steps_rewards_accuracy_memory_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "one")
    assert listed(tmp_path, capsys) == [
        {
            "path": str(tmp_path / "one"),
            "state": "interrupted",
            "steps": 3,
            "max_steps": 100,
            "first_reward": 0.25,
            "last_reward": 0.75,
            "accuracy_before": 0.5,
            "accuracy_after": 0.75,
            "peak_gib": 2.75,
            "seconds": 180.0,
        }
    ]
    list_runs(tmp_path, as_json=False)
    text = capsys.readouterr().out
    assert "3/100 steps   reward 0.250 → 0.750   accuracy 50.0% → 75.0%   peak 2.75 GiB   3 min" in text


def test_a_run_is_running_while_locked_then_interrupted_then_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "one")
    with RunLock(folder.path):
        assert listed(tmp_path, capsys)[0]["state"] == "running"
    assert listed(tmp_path, capsys)[0]["state"] == "interrupted"
    folder.write_summary({"finished": False})
    assert listed(tmp_path, capsys)[0]["state"] == "interrupted"
    folder.write_summary({"steps": 3})
    assert listed(tmp_path, capsys)[0]["state"] == "finished"


def test_one_damaged_run_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "good")
    make_run(tmp_path / "no-database").store_path.write_bytes(b"garbage" * 1000)
    make_run(tmp_path / "no-config").config_path.write_text("a: [")
    assert {str(run["path"]).rpartition("/")[2]: run["state"] for run in listed(tmp_path, capsys)} == {
        "good": "interrupted",
        "no-database": "unreadable",
        "no-config": "unreadable",
    }


def test_a_shown_run_has_its_figures_events_and_rollouts_without_control_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "one").path
    show_run(run, None, 4, as_json=False)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    for words in ("canary", "it sings", "75.0% [65.0, 85.0]", "Step 3: 2 of 2", "reward 1.000", "wrong[2J", "0.250"):
        assert words in text
    show_run(run, 2, 4, as_json=True)
    shown = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert shown["metrics"]["reward"] == [[1, 0.25], [2, 0.5], [3, 0.75]]
    assert shown["metrics"]["loss"][0] == [1, None]
    assert shown["evaluations"]["3"]["greedy"]["value"] == 0.75
    assert [row["text"] for row in shown["rollouts"]] == ["right", "wrong\x1b[2J"]


def test_a_path_or_step_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        show_run(tmp_path / "nowhere", None, 4, as_json=False)
    with pytest.raises(UserError, match="nowhere"):
        list_runs(tmp_path / "nowhere", as_json=False)
    with pytest.raises(UserError, match="no rollouts of step 9: its last step is 3"):
        show_run(make_run(tmp_path / "one").path, 9, 4, as_json=False)


def test_the_most_divided_prompt_comes_first_with_its_best_and_worst_completion() -> None:
    rows = [rollout(group, index, reward=reward) for group, index, reward in [(0, 0, 0.5), (0, 1, 0.5), (0, 2, 0.5)]]
    rows += [rollout(1, 0, reward=0.5), rollout(1, 1, reward=0.0), rollout(1, 2, reward=1.0)]
    assert [(row.group_index, row.completion_index) for row in best_and_worst(rows, 3)] == [(1, 2), (1, 1), (0, 0)]


def test_what_a_tool_wrote_is_marked() -> None:
    shown = [str(part) for part in rollout_report(1, [replace(rollout(), turns=CONVERSATION)], 1)]
    assert shown[-3:] == ["call add: 3 4", "   │ tool: no\n   │ way", "7"]


def test_thinned_steps_keep_both_ends() -> None:
    assert thinned([3, 4], 15) == [3, 4]
    assert thinned(list(range(1, 101)), 4) == [1, 34, 67, 100]


def test_a_sparkline_goes_from_the_lowest_bar_to_the_highest() -> None:
    assert sparkline([0.0, 1.0, 0.5], 60) == "▁█▅"  # 0.5 * 7 = 3.5, rounded to even: the fifth bar
    assert sparkline([0.0, 2.0, 10.0, 12.0], 2) == "▁█"
    assert sparkline([1.0, math.nan, 1.0], 60) == "▁ ▁"
    assert sparkline([], 60) == ""
