"""A run of conversations goes on bit for bit, and its record shows them."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_runs import groat, record_of, write_recipe

AGAIN = """
class Again:
    def __init__(self, problem):
        self.left = 2

    def reply(self, text):
        self.left -= 1
        return None if self.left < 0 else f"Go on, you wrote {len(text)} letters"
"""
REWARDS = """
def letters(completions, **_):
    return [sum(map(str.isalpha, turns[-1]["content"])) / 8 + len(turns) for turns in completions]
"""


def test_a_stopped_run_of_conversations_ends_as_one_that_was_not(tmp_path: Path):
    folder = write_recipe(
        tmp_path,
        task={"chat": True, "environment": "again.py:Again", "max_turns": 3},
        sampling={"max_completion_length": 150, "stop": list("abcdefghijklmnopqrstuvwxyz 0123456789")},
        training={"lr_scheduler_type": "constant", "max_steps": 4},
        evaluation={"eval_steps": 0},
    )
    (folder / "again.py").write_text(AGAIN)
    (folder / "rewards.py").write_text(REWARDS)
    assert groat(folder, "train", "recipe.yaml", "--output-dir", "whole").exit_code == 0
    assert groat(folder, "train", "recipe.yaml", "--output-dir", "half", "--max-steps", "2").exit_code == 0
    assert groat(folder, "resume", "half", "--max-steps", "4").exit_code == 0
    whole, half = record_of(folder / "whole"), record_of(folder / "half")
    for name in ("metrics", "rollouts", "adapter", "checkpoint"):
        assert whole[name] == half[name], name
    conversations = [json.loads(row[-1]) for row in whole["rollouts"]]
    assert all(turns[0]["role"] == "assistant" for turns in conversations)
    assert any(len(turns) == 5 for turns in conversations)
    shown = groat(folder, "runs", "show", "whole")
    assert "│ user: Go on, you wrote" in shown.output
