"""`groat bench quantize`: how far a model in fewer bits is from the unquantized one, on prose and on its answers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from groat.config.tree import ModelConfig, RunConfig, SamplingConfig, TrainingConfig
from groat.memory.dynamic import USUAL_SHARE, DynamicKinds
from groat.memory.sensitivities import Sensitivities, cached_path, read_sensitivities
from groat.memory.sizes import weight_bytes
from groat.model.fingerprint import fingerprint
from groat.model.locate import DEMO_NAME, model_folder, read_spec
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.types import Problem, StorageKind

_SHARES = (1.0, USUAL_SHARE, 1.3)
_NUM_QUESTIONS, _ANSWER_TOKENS = 10, 120


def bench_quantize(args: list[str]) -> None:
    """KL to the unquantized model, in nats per token, of nf4, int8 and dynamic storage in several sizes; on held-out
    prose, chat and code, on a text of your own, and on answers to sums that the model itself draws."""
    parser = argparse.ArgumentParser(prog="groat bench quantize", description=bench_quantize.__doc__)
    parser.add_argument("--model", default=DEMO_NAME)
    parser.add_argument("--text", type=Path, metavar="FILE", help="a text to compare on as well")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(args)
    folder = model_folder(options.model)
    spec = read_spec(folder)
    texts = _texts(options.model, folder, options.text)
    storages = _storages(spec, _sensitivities(options.model, folder, spec))
    figures = _figures(folder, spec, texts, storages)
    print("\n".join(_table(figures)))
    if options.json:
        print(json.dumps(figures))


def _sensitivities(model: str, folder: Path, spec: ModelSpec) -> Sensitivities:
    from groat.quantization.measure import measure_and_keep

    path = cached_path(fingerprint(folder))
    if path.is_file():
        return read_sensitivities(path, spec, fingerprint(folder))
    print("measuring ...", flush=True)
    return measure_and_keep(folder, spec, model=model)


def _storages(spec: ModelSpec, sensitivities: Sensitivities) -> dict[str, tuple[Storage, Sensitivities]]:
    plain = weight_bytes(spec, Storage.of("nf4"))
    kinds: tuple[StorageKind, ...] = ("nf4", "int8")
    storages: dict[str, tuple[Storage, Sensitivities]] = {kind: (Storage.of(kind), sensitivities) for kind in kinds}
    dynamic = DynamicKinds(spec=spec, sensitivities=sensitivities)
    for share in _SHARES:
        storage = dynamic.storage(int(share * plain))
        assert storage is not None, "all in NF4 is smaller than plain NF4 with its embedding in int8"
        storages[f"dynamic {share:.0%}"] = (storage, sensitivities)
    return storages


def _texts(model: str, folder: Path, own: Path | None) -> dict[str, list[int]]:
    from groat.model.tokenizer import Tokenizer
    from groat.quantization.compare import held_out_text
    from groat.quantization.measure import calibration_text

    tokenizer = Tokenizer.from_folder(folder)
    texts = {"held-out text": held_out_text(), "answers": _answers(model)}
    if own is not None:
        texts[own.name] = calibration_text(own)
    return {name: tokenizer.encode(text)[:2048] for name, text in texts.items()}


def _answers(model: str) -> str:
    """Sums of the arithmetic task without examples, each with an answer drawn from the unquantized model."""
    from groat.tasks.task import build_task
    from groat.training.build import build
    from groat.training.step import step_seeds

    config = RunConfig(
        model=ModelConfig(name=model),
        sampling=SamplingConfig(num_generations=2, max_completion_length=_ANSWER_TOKENS, temperature=0.7),
        training=TrainingConfig(generation_batch_size=2 * _NUM_QUESTIONS),
    )
    task = build_task(config.task, config.seed)
    built = build(config, task)
    problems = [
        Problem(id=problem.id, prompt=problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1:])
        for problem in task.held_out[:_NUM_QUESTIONS]
    ]
    prompts = built.parts.encode(problems)
    with built.parts.sampler.awake():
        seeds = step_seeds(config.seed, 1, len(prompts))
        groups = built.parts.sampler.sample(prompts, None, built.parts.sampling, seeds)
    decode = built.model.tokenizer.decode
    return "\n".join(
        f"{decode(group.prompt.token_ids)}{completion.text}" for group in groups for completion in group.completions
    )


def _figures(
    folder: Path,
    spec: ModelSpec,
    texts: Mapping[str, Sequence[int]],
    storages: Mapping[str, tuple[Storage, Sensitivities]],
) -> dict[str, dict[str, float]]:
    """For each storage its size in bytes, and its KL on each text."""
    from groat.kernels.matrix import stored_rows
    from groat.model.checkpoint import Store
    from groat.quantization.compare import kl_to_unquantized
    from groat.quantization.store import dynamic_store

    def store(storage: Storage, sensitivities: Sensitivities) -> Store:
        if storage.calibrated:
            return dynamic_store(storage, sensitivities)
        return lambda name, shape, ranges: stored_rows(shape, ranges, storage.kind_of(name))

    figures: dict[str, dict[str, float]] = {
        name: {"bytes": weight_bytes(spec, storage)} for name, (storage, _) in storages.items()
    }
    for text, token_ids in texts.items():
        print(f"{text}: {len(token_ids)} tokens ...", flush=True)
        sequences = [token_ids[start : start + 512] for start in range(0, len(token_ids), 512)]
        kls = kl_to_unquantized(folder, spec, sequences, {name: store(*both) for name, both in storages.items()})
        for name, kl in kls.items():
            figures[name][text] = round(kl, 6)
    return figures


def _table(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    texts = [name for name in next(iter(figures.values())) if name != "bytes"]
    lines = [f"{'weights':<14}{'MiB':>8}" + "".join(f"{text:>18}" for text in texts) + f"{'less KL than nf4':>24}"]
    for name, row in figures.items():
        saved = ", ".join(f"{1 - row[text] / figures['nf4'][text]:.0%}" for text in texts)
        lines.append(
            f"{name:<14}{row['bytes'] / 2**20:>8.1f}"
            + "".join(f"{row[text]:>18.5f}" for text in texts)
            + f"{saved:>24}"
        )
    return lines
