"""The sides that do the same work, each in a new process: nobody's peak memory holds anything of the others'."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.job import Job
from benchmarks.machine import REPOSITORY, usable_cores
from groat.memory.sizes import kv_bytes
from groat.model.spec import ModelSpec
from groat.types import UserError

GROAT = "groat"
PEER_SCRIPTS = REPOSITORY / "benchmarks" / "peers"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Who does the work, and how it is started; the file of the job follows as the last argument."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def figures(self, job_file: Path) -> dict[str, Any]:
        """What it measured: the last line that it prints."""
        return last_line(self.name, [*self.command, str(job_file)], self.environment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Pythons of other environments, and the model as they read it."""

    hf_folder: Path
    transformers_python: str | None = None
    """With transformers, trl, peft and datasets."""
    vllm_python: str | None = None


def rollout_sides(peers: Peers, job: Job, spec: ModelSpec) -> list[Side]:
    sides = [groat_side("rollouts")]
    if peers.transformers_python:
        sides.append(_peer("transformers", peers.transformers_python, "transformers_generate.py", peers.hf_folder))
    if peers.vllm_python:
        environment = vllm_environment(job, spec)
        sides.append(_peer("vLLM", peers.vllm_python, "vllm_generate.py", peers.hf_folder, environment))
    return sides


def step_sides(peers: Peers) -> list[Side]:
    sides = [groat_side("steps")]
    if peers.transformers_python:
        sides.append(_peer("TRL", peers.transformers_python, "trl_grpo.py", peers.hf_folder))
    return sides


def groat_side(kind: str) -> Side:
    return Side(name=GROAT, command=(sys.executable, "-m", "benchmarks.groat_side", kind))


def vllm_environment(job: Job, spec: ModelSpec) -> dict[str, str]:
    """Room for the keys and values of all sequences at full length, whole GiB; everything in one process; the cores
    that this process is allowed on, which vLLM would not ask for."""
    num_tokens = job.work.num_completions * job.longest_tokens
    cores = usable_cores()
    bound = {} if len(cores) == os.cpu_count() else {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores))}
    return bound | {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, math.ceil(num_tokens * kv_bytes(spec, "f32") / 2**30))),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def hf_folder(python: str, model: Path, target: Path) -> Path:
    """The model as transformers writes it: as it is, or turned from a GGUF by the peer's Python."""
    if (model / "model.safetensors").exists() or (model / "model.safetensors.index.json").exists():
        return model
    run_process(
        "the model as a Hugging Face folder", [python, str(PEER_SCRIPTS / "hf_folder.py"), str(model), str(target)]
    )
    return target


def last_line(name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object in the last line that the command prints."""
    return json.loads(run_process(name, command, environment).strip().splitlines()[-1])


def run_process(name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What the command prints; UserError with its last words if it fails."""
    variables = os.environ | _OFFLINE | dict(environment or {})
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _failed(name, done.returncode, done.stderr)
    return done.stdout


def records(name: str, command: Sequence[str]) -> Generator[dict[str, Any]]:
    """The JSON objects among the lines of a command, each when it is printed; UserError if it fails in the end.

    A caller that stops asking ends the command.
    """
    variables = os.environ | _OFFLINE
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=variables, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        with process:
            assert process.stdout is not None
            try:
                yield from (json.loads(line) for line in process.stdout if line.startswith('{"'))
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            raise _failed(name, process.returncode, errors.read())


def _failed(name: str, code: int, errors: str) -> UserError:
    words = "\n".join(errors.strip().splitlines()[-12:])
    return UserError(f"{name} failed (exit code {code}). Its last words:\n{words}")


def _peer(name: str, python: str, script: str, folder: Path, environment: Mapping[str, str] | None = None) -> Side:
    return Side(name=name, command=(python, str(PEER_SCRIPTS / script), str(folder)), environment=environment or {})
