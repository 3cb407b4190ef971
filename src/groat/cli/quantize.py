"""`groat quantize MODEL`: measure which matrices need more bits, spend a budget on them, and say what it costs."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from groat.config.sizes import parse_size
from groat.memory.dynamic import DynamicKinds, measuring_seconds
from groat.memory.sensitivities import Sensitivities, cached_path, read_sensitivities
from groat.memory.sizes import matrices, weight_bytes
from groat.model.fingerprint import fingerprint
from groat.model.locate import model_folder, read_spec, storage_of_checkpoint
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.types import StorageKind, UserError

if TYPE_CHECKING:
    from groat.tracking.console import Console

_DESCRIPTION = """\
Choose for each of a model's matrices whether it is stored in 4, 8 or 16 bits.

Runs a small text through the model, measures how much the answers would change if
a matrix were stored in fewer bits, and gives the budget to the matrices where it
helps most. What stays in 4 bits is NF4, rounded for the inputs it will see. Reads
the model a layer at a time: one layer must fit in memory, not the model.

The result is kept in groat's cache and used by
  groat train --memory.storage dynamic
or, with --out FILE, by --memory.sensitivities FILE as well. With a memory budget a
run spends what the budget leaves for weights; without one it takes the kinds chosen
here.
"""
_BITS: Mapping[StorageKind, str] = {"nf4": "4", "int8": "8", "bf16": "16", "f32": "32"}
_PARTS = ("qkv", "output", "gate_up", "down")


def quantize_command(args: list[str]) -> None:
    options = _parser().parse_args(args)
    folder = model_folder(options.model)
    spec = read_spec(folder)
    if (found := storage_of_checkpoint(folder)) is not None:
        raise UserError(
            f"{options.model} holds its layers in {found.layers} already, which cannot be undone. Use the unquantized "
            "model"
        )
    budget = _budget(options, spec)

    from groat.tracking.console import Console

    console = Console(quiet=options.json)
    sensitivities = _sensitivities(options, folder, spec, console)
    storage = DynamicKinds(spec=spec, sensitivities=replace(sensitivities, kinds={})).storage(budget)
    assert storage is not None, "the budget was checked"
    sensitivities = replace(sensitivities, kinds={name: storage.kind_of(name) for name in matrices(spec)})
    places = _keep(options, sensitivities)
    damages = {} if options.no_check else _damages(folder, spec, storage, sensitivities, console)
    if options.json:
        print(json.dumps(_figures(spec, storage, damages, places)))
    else:
        print("\n".join(["", *_page(spec, storage, damages), "", *(f"kept in {place}" for place in places)]))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="groat quantize",
        allow_abbrev=False,
        description=_DESCRIPTION,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a Hugging Face folder, a .gguf file, a hub id, or smollm2-135m-instruct")
    parser.add_argument("--budget", help="bytes for the frozen weights, such as 90MiB (default: 110%% of plain NF4's)")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="a text to measure on, in place of groat's")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result here too, as JSON")
    parser.add_argument("--again", action="store_true", help="measure again even where the cache has a measurement")
    parser.add_argument("--no-check", action="store_true", help="leave out the KL on a held-out text (four passes)")
    parser.add_argument("--json", action="store_true", help="one line of JSON and nothing else")
    return parser


def _budget(options: Namespace, spec: ModelSpec) -> int:
    kinds = DynamicKinds(spec=spec, sensitivities=None)
    if options.budget is None:
        return kinds.shares[0]
    try:
        budget = parse_size(options.budget)
    except ValueError as error:
        raise UserError(f"--budget: {error}") from None
    if budget < kinds.shares[-1]:
        raise UserError(
            f"--budget {options.budget} is too small for the weights of {options.model}: all in 4 bits they take "
            f"{_mebibytes(kinds.shares[-1], up=True)}. A smaller model needs less"
        )
    return budget


def _sensitivities(options: Namespace, folder: Path, spec: ModelSpec, console: Console) -> Sensitivities:
    """Those in the cache if they were measured on the same text, or else measured now."""
    from groat.quantization.measure import calibration_text, measure_and_keep, text_hash

    text = calibration_text(options.calibration)
    path = cached_path(fingerprint(folder))
    if path.is_file() and not options.again:
        try:
            known = read_sensitivities(path, spec, fingerprint(folder))
            if known.calibration == text_hash(text):
                console.note(f"Measured before ({path}); --again measures anew")
                return known
        except UserError as error:
            console.event("cache", f"measuring anew: {error}")
    console.note(f"Measuring {len(matrices(spec))} matrices, about {max(1, round(measuring_seconds(spec) / 60))} min")
    with console.phase("measure", 5 * spec.num_layers, "pieces") as phase:
        return measure_and_keep(folder, spec, model=options.model, text=text, done=phase.advance)


def _keep(options: Namespace, sensitivities: Sensitivities) -> list[Path]:
    from groat.quantization.measure import keep

    places = [cached_path(sensitivities.fingerprint), *([options.out] if options.out else [])]
    for place in places:
        keep(sensitivities, place)
    return places


def _damages(
    folder: Path, spec: ModelSpec, storage: Storage, sensitivities: Sensitivities, console: Console
) -> dict[str, float]:
    """KL to the unquantized model on a held-out text."""
    from groat.kernels.matrix import stored_rows
    from groat.model.checkpoint import Store
    from groat.model.tokenizer import Tokenizer
    from groat.quantization.compare import held_out_text, kl_to_unquantized
    from groat.quantization.store import dynamic_store

    def plain(kind: StorageKind) -> Store:
        kinds = Storage.of(kind)
        return lambda name, shape, ranges: stored_rows(shape, ranges, kinds.kind_of(name))

    stores = {"dynamic": dynamic_store(storage, sensitivities), "nf4": plain("nf4"), "int8": plain("int8")}
    token_ids = Tokenizer.from_folder(folder).encode(held_out_text())
    sequences = [token_ids[start : start + 512] for start in range(0, len(token_ids), 512)]
    with console.phase("check on a held-out text", (1 + len(stores)) * spec.num_layers, "layers") as phase:
        return kl_to_unquantized(folder, spec, sequences, stores, phase.advance)


def _figures(spec: ModelSpec, storage: Storage, damages: Mapping[str, float], places: list[Path]) -> dict[str, object]:
    return {
        "bytes": {name: weight_bytes(spec, kinds) for name, kinds in _beside(storage).items()},
        "kl": {name: round(damage, 6) for name, damage in damages.items()},
        "kinds": {name: storage.kind_of(name) for name in matrices(spec)},
        "files": [str(place) for place in places],
    }


def _beside(storage: Storage) -> dict[str, Storage]:
    return {"dynamic": storage, "nf4": Storage.of("nf4"), "int8": Storage.of("int8"), "bf16": Storage.of("bf16")}


def _page(spec: ModelSpec, storage: Storage, damages: Mapping[str, float]) -> list[str]:
    return [*_kinds_table(spec, storage), "", *_sizes_table(spec, storage, damages)]


def _kinds_table(spec: ModelSpec, storage: Storage) -> list[str]:
    """Per part: in how many bits most layers have it, and the layers that differ."""
    lines: list[str] = []
    for part in _PARTS:
        layers: dict[StorageKind, list[int]] = {}
        for index in range(spec.num_layers):
            layers.setdefault(storage.kind_of(f"layers.{index}.{part}"), []).append(index)
        usual, *others = sorted(layers, key=lambda kind: -len(layers[kind]))
        words = "".join(f"; {_BITS[kind]} in layers {_ranges(layers[kind])}" for kind in others)
        lines.append(f"{part:<11}{_BITS[usual]} bits{words}")
    for name in ("embedding", "head"):
        if name in matrices(spec):
            also = ", which is the head too" if spec.tied_head else ""
            lines.append(f"{name:<11}{_BITS[storage.kind_of(name)]} bits{also}")
    return lines


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers with runs drawn together: 0-3, 7, 9-10."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _sizes_table(spec: ModelSpec, storage: Storage, damages: Mapping[str, float]) -> list[str]:
    header = f"{'weights':<11}{'size':>12}" + (f"{'KL, nats per token':>22}" if damages else "")
    rows = [
        f"{name:<11}{_mebibytes(weight_bytes(spec, kinds)):>12}"
        + (f"{damages[name]:>22.5f}" if name in damages else "")
        for name, kinds in _beside(storage).items()
    ]
    return [header, *rows]


def _mebibytes(num_bytes: int, *, up: bool = False) -> str:
    tenths = -(-num_bytes * 10 // 2**20) if up else round(num_bytes * 10 / 2**20)
    return f"{tenths / 10:.1f} MiB"
