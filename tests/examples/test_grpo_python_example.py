"""The example runs as it is written, on a tiny model."""

import subprocess
import sys
from pathlib import Path

from groat.testing import tiny_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpo_python.py"


def test_the_python_example_trains_and_tells_where_the_adapter_is(tmp_path: Path):
    model = tiny_model(tmp_path / "model")
    options = ["--model", str(model), "--output-dir", str(tmp_path / "run"), "--max-steps", "2"]
    command = [sys.executable, str(EXAMPLE), *options, "--max-completion-length", "4"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "reward: 0.000 in the first step, 0.000 in the last" in done.stdout
    assert f"adapter: {tmp_path / 'run'}/adapter" in done.stdout
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
