"""The scripts that people bring from TRL and Unsloth run as they are written, on a tiny model."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from groat.testing import tiny_model
from groat.tracking.store import RunStore

EXAMPLES = Path(__file__).parents[2] / "examples"
REWARDS = {
    "grpo_unsloth_script": [
        "tag_count_reward",
        "soft_format_reward",
        "strict_format_reward",
        "whole_number_reward",
        "correctness_reward",
    ],
    "grpo_trl_script": ["accuracy_reward", "number_reward", "format_reward", "tags_reward", "brevity_reward"],
}
pytest.importorskip("datasets")


def run_script(name: str, folder: Path, *options: str) -> str:
    model = tiny_model(folder / "model", seed=1)
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--model", str(model), "--output-dir", "out"]
    command += ["--max-steps", "2", "--max-completion-length", "8", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(65, 95).unsqueeze(0)).logits


def recorded_rewards(run: Path) -> list[str]:
    with RunStore.read(run / "run.sqlite") as reader:
        return sorted(
            name.split("/")[1] for name in reader.metric_names() if name.endswith("/mean") and "rewards/" in name
        )


def test_the_unsloth_script_trains_saves_and_generates(tmp_path: Path):
    printed = run_script("grpo_unsloth_script", tmp_path)
    out = tmp_path / "out"
    before, after = printed.split("without the adapter:\n")[1].split("\n\nwith it:\n")
    assert before
    assert after
    assert recorded_rewards(out / "outputs") == sorted(REWARDS["grpo_unsloth_script"])
    # The same adapter three times: of the run, saved by save_lora, and by save_pretrained_merged.
    files = [out / name / "adapter_model.safetensors" for name in ("outputs/adapter", "grpo_saved_lora", "lora")]
    assert len({file.read_bytes() for file in files}) == 1
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32)
    expected = logits(PeftModel.from_pretrained(base, out / "grpo_saved_lora"))
    assert (logits(merged) - expected).abs().max() < 2e-2 * expected.abs().max()
    assert AutoTokenizer.from_pretrained(out / "merged").eos_token == "<|im_end|>"
    config = (out / "outputs" / "config.yaml").read_text()
    assert "storage: nf4" in config
    assert "generation_batch_size: 6" in config
    assert "optim: adamw_8bit" in config


def test_the_trl_script_trains_saves_and_generates(tmp_path: Path):
    printed = run_script("grpo_trl_script", tmp_path)
    assert "reward in the last step: " in printed
    assert "\nanswer:\n" in printed
    assert recorded_rewards(tmp_path / "out" / "run") == sorted(REWARDS["grpo_trl_script"])
    saved = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["base_model_name_or_path"]) == (16, 64.0, str(tmp_path / "model"))
    assert (tmp_path / "out" / "adapter" / "tokenizer.json").is_file()


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_only_imports_tell_a_script_from_the_original(name: str):
    """Every name it takes from groat is one that TRL, PEFT, transformers, vLLM or Unsloth has."""
    elsewhere = {"GRPOConfig", "GRPOTrainer", "LoraConfig", "AutoModelForCausalLM", "AutoTokenizer"}
    elsewhere |= {"SamplingParams", "FastLanguageModel", "is_bfloat16_supported"}
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    ours = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "groat"]
    assert {alias.name for node in ours for alias in node.names} <= elsewhere
    assert "groat" not in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert set(REWARDS[name]) <= functions
