"""Datasets by name: from a folder by the code that loads those of the hub, GSM8K-shaped, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from groat.config.tree import TaskConfig
from groat.tasks.hub_rows import read_dataset
from groat.tasks.task import build_task
from groat.types import UserError

datasets: Any = pytest.importorskip("datasets")
ROWS = [
    {"question": f"What is {number} + 1?", "answer": f"{number} + 1 = {number + 1}\n#### {number + 1}"}
    for number in range(12)
]


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def folder_of_files(folder: Path) -> Path:
    """A folder as a dataset's repository on the hub: a file for each split."""
    folder.mkdir()
    for split, rows in (("train", ROWS[:8]), ("test", ROWS[8:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_split_is_read_row_by_row(tmp_path: Path):
    folder = folder_of_files(tmp_path / "gsm8k")
    assert list(read_dataset(f"datasets:{folder}")) == ROWS[:8]
    assert list(read_dataset(f"datasets:{folder}(split=test)")) == ROWS[8:]
    assert list(read_dataset(f'datasets:{folder}( split = "test[:2]" )')) == ROWS[8:10]


def test_what_save_to_disk_wrote_is_read_too(tmp_path: Path):
    splits = {"train": datasets.Dataset.from_list(ROWS[:8]), "test": datasets.Dataset.from_list(ROWS[8:])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    splits["test"].save_to_disk(tmp_path / "one")
    assert list(read_dataset(f"datasets:{tmp_path / 'both'}(split=test)")) == ROWS[8:]
    assert list(read_dataset(f"datasets:{tmp_path / 'one'}")) == ROWS[8:]
    with pytest.raises(UserError, match="there is no split dev, only train, test"):
        list(read_dataset(f"datasets:{tmp_path / 'both'}(split=dev)"))


def test_a_task_of_a_dataset_is_that_of_its_file(tmp_path: Path):
    folder = folder_of_files(tmp_path / "gsm8k")
    options: dict[str, Any] = {
        "prompt_column": "question",
        "chat": True,
        "system_prompt": "Count.",
        "reward_funcs": ("numeric_answer",),
    }
    by_name = TaskConfig(name=f"datasets:{folder}", eval_name=f"datasets:{folder}(split=test)", **options)
    by_file = TaskConfig(name=str(folder / "train.jsonl"), eval_name=str(folder / "test.jsonl"), **options)
    found, expected = build_task(by_name, 3), build_task(by_file, 3)
    assert found.train == expected.train
    assert found.held_out == expected.held_out
    assert found.held_out[0].prompt == (
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "What is 8 + 1?"},
    )
    assert found.is_correct(found.held_out[0], "Answer: 9")
    assert not found.is_correct(found.held_out[0], "Answer: 8")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("datasets:", "name a dataset, such as datasets:openai/gsm8k"),
        ("datasets:a/b(streaming=true)", "options are name, split, revision, data_dir"),
        ("datasets:a/b(main)", "options are name, split"),
    ],
)
def test_a_name_that_cannot_be_read_is_refused(spec: str, words: str):
    with pytest.raises(UserError, match=words):
        list(read_dataset(spec))


def test_what_the_hub_does_not_deliver_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^datasets:groat-tests/none could not be loaded \(\w+: .*Check the name"):
        list(read_dataset("datasets:groat-tests/none"))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "groat\[datasets\]"'):
        list(read_dataset("datasets:openai/gsm8k(name=main)"))
