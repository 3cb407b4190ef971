"""Rows of a dataset on the Hugging Face hub or in a local folder, by the package `datasets`.

`datasets:openai/gsm8k(name=main, split=test)`: a hub id or a folder, and the options of `datasets.load_dataset`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from groat.tasks.checked_rewards import need
from groat.types import UserError

PREFIX = "datasets:"
_OPTIONS = ("name", "split", "revision", "data_dir")


def read_dataset(spec: str) -> Iterator[Mapping[str, Any]]:
    """One mapping per row; the split is `train` unless it is named. No code that comes with a dataset is run."""
    need(spec, "datasets", "datasets", "datasets")
    path, options = _parsed(spec)
    yield from _loaded(spec, path, {"split": "train", **options})


def _parsed(spec: str) -> tuple[str, dict[str, str]]:
    """The hub id or folder, and the options; texts need no quotes, and may have them."""
    path, _, rest = spec.removeprefix(PREFIX).partition("(")
    if not path.strip():
        raise UserError(f"{spec}: name a dataset, such as {PREFIX}openai/gsm8k(name=main, split=train)")
    pairs = [pair.partition("=") for pair in rest.strip().removesuffix(")").split(",") if pair.strip()]
    options = {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
    if not set(options) <= set(_OPTIONS) or not all(options.values()):
        raise UserError(f"{spec}: options are {', '.join(_OPTIONS)}, each written name=value")
    return path.strip(), options


def _loaded(spec: str, path: str, options: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    datasets: Any = importlib.import_module("datasets")
    folder = Path(path).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return iter(_split(datasets.load_from_disk(str(folder)), spec, options["split"]))
        return iter(datasets.load_dataset(str(folder) if folder.is_dir() else path, **options))
    except UserError:
        raise
    except Exception as error:  # datasets, the hub, the network and the files have no common base
        reason = str(error).strip().split("\n")[0][:300]
        raise UserError(
            f"{spec} could not be loaded ({type(error).__name__}: {reason}). Check the name, the options and the "
            "network, or give a folder or a file"
        ) from error


def _split(saved: Any, spec: str, split: str) -> Any:
    """Of what `save_to_disk` has written: one split, or all there is."""
    if not isinstance(saved, Mapping):
        return saved
    splits = cast("Mapping[str, Any]", saved)
    if split not in splits:
        raise UserError(f"{spec}: there is no split {split}, only {', '.join(splits)}: say split=...")
    return splits[split]
