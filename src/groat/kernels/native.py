"""The compiled kernels, called on fp32 CPU tensors through plain C."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Literal

import torch

from groat.kernels.build import build_library

_POINTER, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_float
_SIGNATURES: dict[str, Sequence[type]] = {
    "groat_product": (_POINTER, _INT, _POINTER, _LONG, _POINTER, _LONG, _LONG, _POINTER, _POINTER, _INT),
    "groat_adapted_product": (
        *(_POINTER, _POINTER, _LONG, _POINTER, _LONG, _POINTER),
        *(_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _FLOAT, _POINTER, _INT),
    ),
    "groat_int8_rows": (_POINTER, _POINTER, _LONG, _POINTER),
    "groat_rms_norm": (_POINTER, _LONG, _POINTER, _FLOAT, _POINTER, _LONG, _POINTER, _LONG, _LONG, _INT),
    "groat_rms_norm_backward": (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _INT),
    "groat_swiglu": (_POINTER, _POINTER, _LONG, _LONG, _INT),
    "groat_swiglu_backward": (_POINTER, _POINTER, _POINTER, _LONG, _LONG, _INT),
    "groat_rotate": (_POINTER, _LONG, _POINTER, _POINTER, _FLOAT, _POINTER, _LONG, _LONG, _LONG, _LONG, _INT),
    "groat_attend": (*(_POINTER,) * 4, _LONG, _POINTER, _LONG, _LONG, _LONG, _LONG, _INT),
    "groat_decode": (_POINTER, _LONG, *(_POINTER,) * 5, _INT),
    "groat_layer_forward": (*(_POINTER,) * 4, _LONG, *(_POINTER,) * 6, _LONG, _INT),
    "groat_layer_backward": (*(_POINTER,) * 4, _LONG, *(_POINTER,) * 8, _LONG, _INT),
    "groat_attend_backward": (*(_POINTER,) * 6, _LONG, *(_POINTER,) * 5, _LONG, _LONG, _LONG, _LONG, _INT, _INT),
    "groat_remember": (*(_POINTER,) * 6, _LONG, _LONG, _LONG, _LONG),
    "groat_hadamard": (_POINTER, _LONG, _LONG, _INT),
    "groat_heads_to_int8": (_POINTER, _POINTER, _POINTER, _LONG, _LONG, _INT),
    "groat_token_logprobs": (*(_POINTER,) * 5, _LONG, _LONG, _INT),
    "groat_logprob_gradient": (*(_POINTER,) * 4, _LONG, _LONG, _INT),
    "groat_to_nf4": (_POINTER, _INT, _LONG, _POINTER, _POINTER, _POINTER, _INT),
    "groat_to_int8": (_POINTER, _INT, _LONG, _LONG, _POINTER, _POINTER, _INT),
    "groat_to_bytes": (_POINTER, _LONG, _LONG, _POINTER, _POINTER, _POINTER, _INT),
    "groat_nf4_scales": (_POINTER, _LONG, _POINTER, _LONG, _POINTER, _POINTER, _LONG, _POINTER, _INT),
    "groat_nf4_feedback": (_POINTER, _LONG, _LONG, *(_POINTER,) * 5, _LONG, _POINTER, _INT),
    "groat_adamw_8bit": (_POINTER, _POINTER, _LONG, *(_POINTER,) * 9, _INT),
    "groat_draw": (_POINTER, _LONG, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _INT),
}


class MatrixView(ctypes.Structure):
    """A frozen matrix as linear.cpp sees it. Whoever makes one keeps the tensors alive."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "compute", "block")),
        *((name, ctypes.c_int64) for name in ("rows", "columns")),
        *((name, _POINTER) for name in ("values", "scales", "scale_codes", "scale_map", "scale_scales")),
        *((name, _POINTER) for name in ("scale_offsets", "code")),
    )

    @classmethod
    def of(
        cls,
        kind: int,
        shape: tuple[int, int],
        values: torch.Tensor,
        *,
        in_int8: bool = False,
        block: int = 0,
        **others: torch.Tensor,
    ) -> MatrixView:
        """Kinds are those of linear.cpp: 0 fp32, 1 bf16, 2 int8, 3 nf4, 4 fp32 in tiles, 5 int8 by rows.

        `in_int8`: so are products.
        """
        pointers = {name: tensor.data_ptr() for name, tensor in others.items()}
        rows, columns = shape
        return cls(
            kind=kind,
            compute=int(in_int8),
            block=block,
            rows=rows,
            columns=columns,
            values=values.data_ptr(),
            **pointers,
        )


Kernels = Literal["auto", "torch"]


class _Choice:
    """What this process computes with; `choose_kernels` is the only writer."""

    kernels: Kernels = "auto"


def choose_kernels(kernels: Kernels) -> None:
    """`auto`: the compiled kernels where they can be built; `torch`: torch's operators alone. Holds for the process."""
    _Choice.kernels = kernels


def native_for(*tensors: torch.Tensor | None) -> ctypes.CDLL | None:
    """The compiled kernels, if they are wanted, there, and made for these tensors: fp32 on the CPU, rows unbroken."""
    if _Choice.kernels == "torch":
        return None
    for tensor in tensors:
        if tensor is not None and (
            tensor.dtype != torch.float32 or tensor.device.type != "cpu" or (tensor.ndim and tensor.stride(-1) != 1)
        ):
            return None
    return _library()


@functools.cache
def _library() -> ctypes.CDLL | None:
    path = build_library().library
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    for name, argument_types in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = argument_types, None
    return library


def has_int8_kernels() -> bool:
    """Whether products in int8 are compiled in and wanted: on x86 CPUs with AVX512-VNNI, or AVX2 and no AVX-512."""
    native = native_for()
    return native is not None and bool(native.groat_multiplies_in_int8())


def kernels_in_use() -> str:
    """For reports: which kernels compute on the CPU, and why."""
    if _Choice.kernels == "torch":
        return "torch, as model.kernels says"
    built = build_library()
    if built.library is None:
        return f"torch, slower than groat's own ({built.reason})"
    return f"groat's own ({built.reason})"
