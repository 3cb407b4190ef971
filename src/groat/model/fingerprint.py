"""What tells one model's weights from another's, without reading them all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from groat.model.files import GGUF_LINK
from groat.types import UserError

_NUM_SAMPLES = 32
_SAMPLE_BYTES = 2**14


def fingerprint(folder: Path) -> str:
    """A hash of config.json and of every weights file's name, size and bytes at 32 places spread over it."""
    digest = hashlib.sha256()
    try:
        digest.update((folder / "config.json").read_bytes())
        for path in sorted([*folder.glob("*.safetensors"), *folder.glob(GGUF_LINK)]):
            size = path.stat().st_size
            digest.update(f"\0{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                for number in range(_NUM_SAMPLES):
                    file.seek(number * max(size - _SAMPLE_BYTES, 0) // (_NUM_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise UserError(f"cannot read the model in {folder}: {error.strerror or error}") from error
    return digest.hexdigest()[:32]
