"""What the peers' processes do alike: read what is asked, and end with their figures in a line of JSON.

Each is started as `python SCRIPT MODEL_FOLDER WORK.json` with a Python that has the peer's packages and not groat.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

WARM_UP_TOKENS = 4
_ASKED_WITHOUT_A_WORD = {"num_measured": 2, "num_warm_up": 1}


def asked() -> tuple[str, dict[str, Any]]:
    """The model's folder; `questions`, `group_size`, `new_tokens`, `num_measured`, and of whole steps `num_warm_up`."""
    folder, path = sys.argv[1:]
    return folder, _ASKED_WITHOUT_A_WORD | json.loads(Path(path).read_text())


def chats_of(work: Mapping[str, Any]) -> list[list[dict[str, str]]]:
    """Each question as a conversation."""
    return [[{"role": "user", "content": question}] for question in work["questions"]]


def fastest_rollouts(work: Mapping[str, Any], seconds_for: Callable[[int], float]) -> float:
    """Tokens per second, when warm: the fastest of several times, as with every side."""
    seconds_for(WARM_UP_TOKENS)
    num_tokens = len(work["questions"]) * work["group_size"] * work["new_tokens"]
    return num_tokens / min(seconds_for(work["new_tokens"]) for _ in range(work["num_measured"]))


def tell(peer: str, prompt_tokens: Sequence[int], packages: Sequence[str], **figures: float) -> None:
    """The last line; `prompt_tokens` is how long each prompt was, `packages` whose versions matter."""
    facts = {"peer": peer, "prompt_tokens": list(prompt_tokens), "peak_gib": round(peak_bytes() / 2**30, 3)}
    versions = {package: version(package) for package in packages}
    print(json.dumps(facts | {name: float(f"{value:.6g}") for name, value in figures.items()} | {"versions": versions}))


def peak_bytes() -> int:
    """The most that this program held. getrusage would count what its parent held when it started this process."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    marks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    scale = 1 if sys.platform == "darwin" else 1024
    return marks[0] if marks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
