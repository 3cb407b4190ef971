"""What is wrong with recipe, model and data ends, before anything is trained, in one paragraph and exit code 2."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import groat, refusal, write_recipe


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_rows(folder: Path, *rows: object) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_reward(folder: Path, text: str) -> None:
    (folder / "rewards.py").write_text(text)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown key": (
        lambda folder: (folder / "recipe.yaml").write_text("training: {max_step: 3}\n"),
        "recipe.yaml: training.max_step is not a field; did you mean training.max_steps?",
    ),
    "architecture": (
        lambda folder: edit_config(folder, architectures=["BloomForCausalLM"]),
        "model/config.json: the architecture BloomForCausalLM is not supported. groat knows LlamaForCausalLM",
    ),
    "truncated safetensors": (
        lambda folder: os.truncate(folder / "model" / "model.safetensors", 5000),
        "model/model.safetensors is not a complete safetensors file",
    ),
    "empty safetensors": (
        lambda folder: os.truncate(folder / "model" / "model.safetensors", 0),
        "model/model.safetensors is not a complete safetensors file",
    ),
    "empty data": (lambda folder: write_rows(folder), "rows.jsonl is empty: it needs one row per line, such as"),
    "no data": (
        lambda folder: (folder / "rows.jsonl").unlink(),
        "cannot read rows.jsonl (looked for in {folder}): No such file or directory. Check the path",
    ),
    "another column": (
        lambda folder: write_rows(folder, {"question": "What?"}),
        "rows.jsonl, row 1 has no `prompt` column, only question: rename `question` to `prompt`",
    ),
    "not JSON": (
        lambda folder: (folder / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n'),
        "rows.jsonl, line 2 is not JSON: Expecting value at character 11; it needs one row per line, such as",
    ),
    "a long prompt": (
        lambda folder: write_rows(folder, *({"prompt": "x" * size} for size in (10, 503, 502, 600))),
        "2 of 4 prompts are too long: the context of 512 tokens less sampling.max_completion_length 10 leaves 502, and "
        "the longest (problem row-",
    ),
    "a column no row has": (
        lambda folder: write_reward(folder, "def letters(completions, answer): return [1.0] * len(completions)"),
        "reward function letters needs `answer`, which is no column of the data (it has none)",
    ),
    "no reward file": (lambda folder: (folder / "rewards.py").unlink(), "cannot read the file rewards.py ("),
    "no such reward": (
        lambda folder: write_reward(folder, "def other(completions, **_): return [1.0] * len(completions)"),
        "rewards.py has no function 'letters'; it has other",
    ),
    "reward file with a slip": (
        lambda folder: write_reward(folder, "def letters(completions, **_) return 1"),
        "the file rewards.py does not run: SyntaxError: expected ':'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_paragraph_and_the_folder_stays_free(tmp_path: Path, name: str) -> None:
    spoil, message = WRONG[name]
    folder = write_recipe(tmp_path)
    spoil(folder)
    assert message.format(folder=folder) in refusal(groat(folder, "train", "recipe.yaml"))
    # Nothing was begun: the corrected recipe can use the same output_dir.
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--training.max-step", "3"], "--training.max-step is not a field; did you mean --training.max-steps?"),
        (["--model", "nosuch"], "model.name is 'nosuch', but there is no folder or .gguf file at"),
        (["--model", "./nosuch.gguf"], "there is no folder or .gguf file at {folder}/nosuch.gguf"),
        (["--budget", "10MiB"], "memory.budget 10MiB cannot be kept: the smallest that can is"),
        (
            ["--task", "rows.txt"],
            "task.name is 'rows.txt': use arithmetic, large_arithmetic, countdown, reasoning_gym:DATASET, "
            "verifiers:ENVIRONMENT, datasets:HUB_ID, or a file",
        ),
    ],
)
def test_a_wrong_flag_is_named(tmp_path: Path, flags: list[str], message: str) -> None:
    folder = write_recipe(tmp_path)
    assert message.format(folder=folder) in refusal(groat(folder, "train", "recipe.yaml", *flags))
    assert not (folder / "run").exists()


@pytest.mark.parametrize("size", [0, 4, 24, 3000])
def test_a_truncated_gguf_is_named(tmp_path: Path, size: int) -> None:
    folder = write_recipe(tmp_path)
    write_gguf(folder / "tiny.gguf")
    os.truncate(folder / "tiny.gguf", size)
    ended = groat(folder, "train", "recipe.yaml", "--model", "tiny.gguf", environment={"XDG_CACHE_HOME": str(tmp_path)})
    assert "tiny.gguf is not a" in refusal(ended)
    assert not list(tmp_path.rglob("gguf/*/config.json"))


def write_gguf(path: Path) -> None:
    """A whole header of a llama, and some tensors."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_token_list([f"token {number}" for number in range(259)])
    for index in range(8):
        writer.add_tensor(f"blk.{index}.attn_q.weight", np.zeros((32, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert path.stat().st_size > 30_000


def test_the_installed_command_exits_with_2_and_prints_nothing_else(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "groat"), "train", "nosuch.yaml"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: there is no recipe 'nosuch.yaml'")
