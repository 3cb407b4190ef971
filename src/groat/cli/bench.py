"""`groat bench w1`: rollouts and whole steps on a fixed piece of work, beside a peer where one is given."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groat.config.algorithms import ALGORITHMS
from groat.config.tree import (
    EvaluationConfig,
    MemoryConfig,
    ModelConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
)
from groat.types import Compute, Problem, StorageKind, UserError

if TYPE_CHECKING:
    from groat.tasks.task import Task

QUESTIONS = (
    "I have 3 apples and buy 4 more, then eat 2. How many apples do I have? Think step by step.",
    "A train travels 60 km in one hour. How far does it travel in 3 hours? Think step by step.",
    "Tom has twice as many books as Ann. Ann has 7 books. How many books do they have together? Think step by step.",
    "A shop sells pens at 2 coins each. I pay 20 coins and get 6 back. How many pens did I buy? Think step by step.",
)
GROUP_SIZE = 8
NEW_TOKENS = 128
_LEARN_FROM_ALL = ("grpo", "rloo", "reinforce++", "ppo")
"""Algorithms that learn from every completion, so that their work is the same."""
PEER_SCRIPTS = Path("benchmarks/peers")


def bench_w1(args: list[str]) -> None:
    """4 prompts x 8 completions x 128 tokens, LoRA r=16 on all linear layers, one optimizer step."""
    options = _options(args)
    storage, compute = fastest_numbers(options.storage, options.compute)
    config = fixed_config(len(QUESTIONS), GROUP_SIZE, NEW_TOKENS)
    config = replace(
        config,
        model=ModelConfig(compute=compute),
        memory=MemoryConfig(storage=storage),
        algorithm=ALGORITHMS[options.algorithm](),
    )
    print(f"weights stored in {storage}, products computed in {compute}", flush=True)
    work = _Work(config)
    work.step()  # warm-up: the first step allocates
    steps: list[dict[str, float]] = []
    peers: list[dict[str, Any]] = []
    for repetition in range(options.repetitions):
        steps.append(work.step())
        print(f"groat step {repetition + 1}/{options.repetitions}: {_words(steps[-1])}", flush=True)
        if options.peer and repetition < len(_PEERS):
            peers.append(_run_peer(options.peer, _PEERS[repetition]))
    figures = _medians(steps, work.peak_gib()) | {
        "algorithm": options.algorithm,
        "storage": storage,
        "compute": compute,
    }
    _print_comparison(figures, peers)
    if options.json:
        print(json.dumps(figures | ({"peers": peers} if peers else {})))


def _options(args: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="groat bench w1", description=bench_w1.__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--repetitions", type=int, default=3, help="steps measured (default 3)")
    parser.add_argument(
        "--algorithm", choices=_LEARN_FROM_ALL, default="grpo", help="with its default options (default grpo)"
    )
    parser.add_argument("--storage", choices=("f32", "bf16", "int8", "nf4"), help="of the frozen weights")
    parser.add_argument(
        "--compute",
        choices=("f32", "int8"),
        help="of products with them; without both, int8 for both where that is faster (see model.compute), else f32",
    )
    parser.add_argument(
        "--peer",
        metavar="PYTHON",
        help="a Python with transformers, trl, peft and datasets; run from the project's folder (benchmarks/peers)",
    )
    options = parser.parse_args(args)
    if options.repetitions < 1:
        raise UserError(f"--repetitions must be at least 1, got {options.repetitions}")
    if options.peer and not PEER_SCRIPTS.is_dir():
        raise UserError(f"--peer needs the scripts in {PEER_SCRIPTS}: run it in a checkout of groat")
    return options


def fastest_numbers(storage: StorageKind | None, compute: Compute | None) -> tuple[StorageKind, Compute]:
    """Storage and compute as asked for, else the fastest faithful ones on this machine."""
    from groat.kernels.native import has_int8_kernels

    in_int8 = has_int8_kernels() and storage in (None, "int8") and compute in (None, "int8")
    compute = compute or ("int8" if in_int8 else "f32")
    return storage or ("int8" if compute == "int8" else "f32"), compute


def fixed_config(num_prompts: int, group_size: int, new_tokens: int) -> RunConfig:
    """Steps whose completions all have exactly `new_tokens` tokens, without evaluations."""
    return RunConfig(
        sampling=SamplingConfig(
            num_generations=group_size, max_completion_length=new_tokens, min_completion_length=new_tokens
        ),
        training=TrainingConfig(generation_batch_size=num_prompts * group_size, learning_rate=2e-5),
        evaluation=EvaluationConfig(num_problems=0),
    )


def fixed_task(questions: Sequence[str]) -> Task:
    """A chat for each question, and a reward that trains every group."""
    from groat.tasks.rewards import RewardFunction
    from groat.tasks.task import Task

    problems = tuple(
        Problem(id=str(index), prompt=({"role": "user", "content": question},))
        for index, question in enumerate(questions)
    )
    return Task(
        name="w1",
        train=problems,
        held_out=problems,
        rewards=(RewardFunction(name="varied", function=varied_reward),),
        is_correct=lambda _, __, ___=(), ____=None: False,
    )


class _Work:
    """W1 with groat: the parts of a run, without its tracking."""

    def __init__(self, config: RunConfig) -> None:
        from groat.tracking.console import Console
        from groat.training.build import build
        from groat.training.phases import Phases

        task = fixed_task(QUESTIONS)
        self._built = build(config, task)
        self._problems = task.train
        self._phases = Phases(Console(quiet=True))
        self._num_steps = 0

    def step(self) -> dict[str, float]:
        """One whole step: seconds, and tokens per second of its rollouts."""
        from groat.training.step import step_seeds, train_step

        self._num_steps += 1
        sampled_before, started = self._phases.seconds["sample"], time.perf_counter()
        seeds = step_seeds(0, self._num_steps, len(self._problems))
        adapter = self._built.parts.learner.adapter
        result = train_step(self._built.parts, self._problems, seeds, adapter, self._phases)
        seconds = time.perf_counter() - started
        tokens = sum(len(completion.token_ids) for group in result.groups for completion in group.completions)
        assert tokens == len(QUESTIONS) * GROUP_SIZE * NEW_TOKENS, "every completion has exactly 128 tokens"
        assert len(result.credit.samples) == len(QUESTIONS) * GROUP_SIZE, "no group may be skipped"
        return {
            "rollout_tokens_per_second": tokens / (self._phases.seconds["sample"] - sampled_before),
            "step_seconds": seconds,
        }

    def peak_gib(self) -> float:
        from groat.memory.measure import gib, peak_bytes

        return gib(peak_bytes())


def varied_reward(completions: list[Any], **_: Any) -> list[float]:
    """Differs within every group, and a root is hardly ever the mean of others: nothing can be skipped. In [0, 1)."""
    texts = [completion[0]["content"] for completion in completions]
    return [math.sqrt((sum(map(ord, text)) % 997) / 997) for text in texts]


_PEERS = ("transformers_generate.py", "trl_grpo.py")


def _run_peer(python: str, script: str) -> dict[str, Any]:
    from groat.model.locate import DEMO_NAME, model_folder

    print(f"peer: {script} ...", flush=True)
    work = {"questions": QUESTIONS, "group_size": GROUP_SIZE, "new_tokens": NEW_TOKENS}
    with tempfile.TemporaryDirectory() as folder:
        model, asked = Path(folder) / "model", Path(folder) / "work.json"
        asked.write_text(json.dumps(work))
        _run([python, str(PEER_SCRIPTS / "hf_folder.py"), str(model_folder(DEMO_NAME)), str(model)])
        printed = _run([python, str(PEER_SCRIPTS / script), str(model), str(asked)])
    figures = json.loads(printed.strip().splitlines()[-1])
    print(f"peer: {figures}", flush=True)
    return figures


def _run(command: list[str]) -> str:
    """What the command prints; UserError with its last words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def _medians(steps: list[dict[str, float]], peak_gib: float) -> dict[str, Any]:
    medians = {name: round(statistics.median(step[name] for step in steps), 3) for name in steps[0]}
    return medians | {"peak_gib": round(peak_gib, 3)}


def _print_comparison(figures: dict[str, Any], peers: list[dict[str, Any]]) -> None:
    print(f"groat, medians: {_words(figures)}, peak {figures['peak_gib']:.2f} GiB")
    for peer in peers:
        if "rollout_tokens_per_second" in peer:
            ratio = figures["rollout_tokens_per_second"] / peer["rollout_tokens_per_second"]
            print(f"rollouts: {ratio:.2f} x {peer['peer']}")
        if "step_seconds" in peer:
            print(f"whole step: {peer['step_seconds'] / figures['step_seconds']:.2f} x faster than {peer['peer']}")
        print(f"peak memory: {figures['peak_gib'] / peer['peak_gib']:.2f} of {peer['peer']}'s")


def _words(figures: dict[str, float]) -> str:
    return f"rollouts {figures['rollout_tokens_per_second']:.0f} tokens/s, step {figures['step_seconds']:.1f} s"
