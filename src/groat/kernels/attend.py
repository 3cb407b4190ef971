"""One new token per sequence attends to what came before it: whole ranges of keys, each for a range of sequences."""

from __future__ import annotations

import numpy as np
import torch

from groat.kernels.native import native_for

SEGMENT_FIELDS = 7
"""first row, end row, number of keys, stride of a token, stride of a head, address of the keys, of the values."""


def attend_segments(queries_SAD: torch.Tensor, segments: np.ndarray, num_kv_heads: int) -> torch.Tensor:
    """Attention output [S, A, D] of every row over the segments that cover it; only where `has_native_attention`.

    `segments` is an int64 array [segments, SEGMENT_FIELDS] of fp32 keys and values that the caller keeps alive.
    """
    native = native_for(queries_SAD)
    assert native is not None
    queries_SAD = queries_SAD.contiguous()
    output_SAD = torch.empty_like(queries_SAD)
    rows, heads, size = queries_SAD.shape
    native.groat_attend(
        *(queries_SAD.data_ptr(), output_SAD.data_ptr(), segments.ctypes.data, len(segments)),
        *(rows, heads, num_kv_heads, size, torch.get_num_threads()),
    )
    return output_SAD


def has_native_attention(keys: torch.Tensor) -> bool:
    """Whether keys of this kind can be attended to by `attend_segments`."""
    return native_for(keys) is not None


def remember(
    keys_SKD: torch.Tensor,
    values_SKD: torch.Tensor,
    arena_keys_CKLD: torch.Tensor,
    arena_values_CKLD: torch.Tensor,
    slots_S: torch.Tensor,
    places_S: torch.Tensor,
) -> None:
    """Write each row's new key and value into its slot, at its place."""
    native = native_for(keys_SKD, values_SKD, arena_keys_CKLD, arena_values_CKLD)
    if native is None or not (keys_SKD.is_contiguous() and values_SKD.is_contiguous()):
        arena_keys_CKLD[slots_S, :, places_S] = keys_SKD
        arena_values_CKLD[slots_S, :, places_S] = values_SKD
        return
    rows, kv_heads, size = keys_SKD.shape
    native.groat_remember(
        *(keys_SKD.data_ptr(), values_SKD.data_ptr(), arena_keys_CKLD.data_ptr(), arena_values_CKLD.data_ptr()),
        *(slots_S.data_ptr(), places_S.data_ptr(), rows, kv_heads, arena_keys_CKLD.shape[2], size),
    )
