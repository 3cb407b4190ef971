"""Attention over trees of tokens: a shared prefix is computed once, whatever hangs from it attends to it.

Tokens lie flat in depth-first order, so everything below a node is one range of rows right behind it. A node's keys
are then attended by one rectangle of queries: its own rows causally, all rows below it in full. Partial results over
several nodes are merged by their log-sum-exp, as in FlashAttention (arXiv:2205.14135) and its distributed relatives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import torch

from groat.kernels.attend import attend_spans, attend_spans_backward, has_native_attention, tree_spans
from groat.kernels.kv import KV, turned
from groat.kernels.prefix import LayerPrefix
from groat.kernels.rooms import room_like
from groat.trees import Node
from groat.types import KVStorage

NOTHING: Mapping[int, Sequence[KV]] = MappingProxyType({})


def attend_block(
    queries_RAD: torch.Tensor, keys_LKD: torch.Tensor, values_LKD: torch.Tensor, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention of R rows over L keys; with `causal`, row i sees keys 0..i, rows from L on see all.

    A query heads share K key heads. Returns the output [R, A, D] and the log-sum-exp [A, R].
    """
    if queries_RAD.device.type == "cpu":
        output_1ARD, lse_1AR = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries_RAD.transpose(0, 1)[None],
            keys_LKD.transpose(0, 1)[None],
            values_LKD.transpose(0, 1)[None],
            0.0,
            causal,
        )
        return output_1ARD[0].transpose(0, 1), lse_1AR[0]
    return attend_block_by_matmul(queries_RAD, keys_LKD, values_LKD, causal)


def attend_block_by_matmul(
    queries_RAD: torch.Tensor, keys_LKD: torch.Tensor, values_LKD: torch.Tensor, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain matmuls, for devices without the fused kernel (not run on a GPU); holds [A, R, L] scores."""
    scores_ARL = _scores(queries_RAD, keys_LKD, causal)
    lse_AR = scores_ARL.logsumexp(-1)
    weights_ARL = (scores_ARL - lse_AR[..., None]).exp()
    values_ALD = _per_query_head(values_LKD, queries_RAD.shape[1])
    return (weights_ARL @ values_ALD).transpose(0, 1), lse_AR


def block_gradients(
    grad_RAD: torch.Tensor,
    queries_RAD: torch.Tensor,
    keys_LKD: torch.Tensor,
    values_LKD: torch.Tensor,
    output_RAD: torch.Tensor,
    lse_AR: torch.Tensor,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of one block, given the merged output and log-sum-exp of all blocks its rows attend to."""
    if queries_RAD.device.type == "cpu":
        grad_q, grad_k, grad_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_RAD.transpose(0, 1)[None],
            queries_RAD.transpose(0, 1)[None],
            keys_LKD.transpose(0, 1)[None],
            values_LKD.transpose(0, 1)[None],
            output_RAD.transpose(0, 1)[None],
            lse_AR[None].contiguous(),
            0.0,
            causal,
        )
        return grad_q[0].transpose(0, 1), grad_k[0].transpose(0, 1), grad_v[0].transpose(0, 1)
    return block_gradients_by_matmul(grad_RAD, queries_RAD, keys_LKD, values_LKD, output_RAD, lse_AR, causal)


def block_gradients_by_matmul(
    grad_RAD: torch.Tensor,
    queries_RAD: torch.Tensor,
    keys_LKD: torch.Tensor,
    values_LKD: torch.Tensor,
    output_RAD: torch.Tensor,
    lse_AR: torch.Tensor,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same in plain matmuls, for devices without the fused kernel (not run on a GPU)."""
    (rows, heads, size), (keys, kv_heads, _) = queries_RAD.shape, keys_LKD.shape
    weights_ARL = (_scores(queries_RAD, keys_LKD, causal) - lse_AR[..., None]).exp()
    grad_ARD = grad_RAD.transpose(0, 1)
    along_AR = (grad_RAD * output_RAD).sum(-1).T
    grad_weights_ARL = grad_ARD @ _per_query_head(values_LKD, heads).transpose(1, 2)
    grad_scores_ARL = weights_ARL * (grad_weights_ARL - along_AR[..., None]) / math.sqrt(size)
    grad_q_ARD = grad_scores_ARL @ _per_query_head(keys_LKD, heads)
    grad_k_ALD = grad_scores_ARL.transpose(1, 2) @ queries_RAD.transpose(0, 1)
    grad_v_ALD = weights_ARL.transpose(1, 2) @ grad_ARD

    def per_kv_head(grad_ALD: torch.Tensor) -> torch.Tensor:
        return grad_ALD.view(kv_heads, heads // kv_heads, keys, size).sum(1).transpose(0, 1)

    assert grad_q_ARD.shape == (heads, rows, size)
    return grad_q_ARD.transpose(0, 1), per_kv_head(grad_k_ALD), per_kv_head(grad_v_ALD)


def _scores(queries_RAD: torch.Tensor, keys_LKD: torch.Tensor, causal: bool) -> torch.Tensor:
    rows, heads, size = queries_RAD.shape
    keys_ALD = _per_query_head(keys_LKD, heads)
    scores_ARL = queries_RAD.transpose(0, 1) @ keys_ALD.transpose(1, 2) / math.sqrt(size)
    if causal:
        hidden_RL = torch.ones(rows, keys_LKD.shape[0], dtype=torch.bool, device=queries_RAD.device).triu(1)
        scores_ARL = scores_ARL.masked_fill(hidden_RL, -torch.inf)
    return scores_ARL


def _per_query_head(tensor_LKD: torch.Tensor, heads: int) -> torch.Tensor:
    return tensor_LKD.transpose(0, 1).repeat_interleave(heads // tensor_LKD.shape[1], dim=0)


def merge(output_RAD: torch.Tensor, lse_AR: torch.Tensor, more_RAD: torch.Tensor, more_lse_AR: torch.Tensor) -> None:
    """Fold attention over further keys into `output_RAD` and `lse_AR`, in place."""
    merged_AR = torch.logaddexp(lse_AR, more_lse_AR)
    output_RAD.mul_((lse_AR - merged_AR).exp_().T[..., None])
    output_RAD.addcmul_(more_RAD, (more_lse_AR - merged_AR).exp_().T[..., None])
    lse_AR.copy_(merged_AR)


class _TreeAttention(torch.autograd.Function):
    """Saves queries, keys, values, output and log-sum-exp: nothing that grows with the square of the length."""

    @staticmethod
    def forward(
        ctx: Any,
        queries_TAD: torch.Tensor,
        keys_TKD: torch.Tensor,
        values_TKD: torch.Tensor,
        nodes: Sequence[Node],
        kv_storage: KVStorage,
        before: LayerPrefix | None,
        made: LayerPrefix | None,
    ) -> torch.Tensor:
        queries_TAD, own = as_kept(queries_TAD, keys_TKD, values_TKD, kv_storage)
        if made is not None:
            made.kv.put(slice(None), own)
        outside = NOTHING if before is None else before_roots(nodes, before.kv)
        output_TAD, lse_AT = tree_attention_with_lse(queries_TAD, own, nodes, outside)
        ctx.save_for_backward(queries_TAD, *own.exact, output_TAD, lse_AT)
        ctx.nodes, ctx.kv_storage, ctx.before, ctx.made = nodes, kv_storage, before, made
        return output_TAD

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """To the gradient, rounding is nothing."""
        (grad_TAD,) = grads
        queries_TAD, keys_TKD, values_TKD, output_TAD, lse_AT = ctx.saved_tensors
        in_int8 = ctx.kv_storage == "int8"
        grad_q_TAD, grad_k_TKD, grad_v_TKD = tree_gradients(
            *(grad_TAD, queries_TAD, keys_TKD, values_TKD, output_TAD, lse_AT, ctx.nodes),
            in_bfloat16=in_int8,
            before=ctx.before,
        )
        if ctx.made is not None and ctx.made.gradients is not None:
            more_k_TKD, more_v_TKD = ctx.made.gradients
            grad_k_TKD, grad_v_TKD = grad_k_TKD + more_k_TKD, grad_v_TKD + more_v_TKD
        if in_int8:
            grad_q_TAD, grad_k_TKD = turned(grad_q_TAD), turned(grad_k_TKD)
        return grad_q_TAD, grad_k_TKD, grad_v_TKD, None, None, None, None


def before_roots(nodes: Sequence[Node], kv: KV) -> Mapping[int, Sequence[KV]]:
    """The same before all of them."""
    return {index: [kv] for index, node in enumerate(nodes) if node.is_root}


def as_kept(
    queries_TAD: torch.Tensor, keys_TKD: torch.Tensor, values_TKD: torch.Tensor, storage: KVStorage
) -> tuple[torch.Tensor, KV]:
    """The queries [T, A, D] that go with keys and values [T, K, D] kept like that, and these."""
    if storage == "int8":
        queries_TAD, keys_TKD = turned(queries_TAD), turned(keys_TKD)
    return queries_TAD, KV.keep(keys_TKD, values_TKD, storage)


def tree_gradients(
    grad_TAD: torch.Tensor,
    queries_TAD: torch.Tensor,
    keys_TKD: torch.Tensor,
    values_TKD: torch.Tensor,
    output_TAD: torch.Tensor,
    lse_AT: torch.Tensor,
    nodes: Sequence[Node],
    *,
    in_bfloat16: bool = False,
    before: LayerPrefix | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of queries, keys and values, given what `tree_attention_with_lse` found; `before` comes before all
    roots, and what is found for it is added to its own gradients.

    `in_bfloat16`: where the CPU has matrix tiles for it, as gradients of products in int8 are computed.
    """
    own_kv = KV.keep(keys_TKD, values_TKD, "f32")
    before = None if before is None else before.exact
    if nodes and has_native_attention(own_kv, queries_TAD):
        spans, runs = tree_spans(nodes, own_kv, NOTHING if before is None else before_roots(nodes, before.kv))
        return attend_spans_backward(
            *(grad_TAD, queries_TAD, output_TAD, lse_AT, own_kv, spans, runs),
            in_bfloat16=in_bfloat16,
            before=before,
        )
    grad_q_TAD = room_like(queries_TAD, *queries_TAD.shape)
    grad_k_TKD, grad_v_TKD = (room_like(tensor, *tensor.shape) for tensor in (keys_TKD, values_TKD))
    for node in nodes:
        own, rows = slice(node.start, node.end), slice(node.start, node.subtree_end)
        grad_q, grad_k_TKD[own], grad_v_TKD[own] = block_gradients(
            grad_TAD[rows],
            queries_TAD[rows],
            keys_TKD[own],
            values_TKD[own],
            output_TAD[rows],
            lse_AT[:, rows],
            causal=True,
        )
        if node.is_root:
            grad_q_TAD[rows] = grad_q
        else:
            grad_q_TAD[rows] += grad_q
        if node.is_root and before is not None and before.gradients is not None:
            keys_PKD, values_PKD = before.kv.exact
            given = (grad_TAD[rows], queries_TAD[rows], keys_PKD, values_PKD, output_TAD[rows], lse_AT[:, rows])
            more_q, *found = block_gradients(*given, causal=False)
            grad_q_TAD[rows] += more_q
            for gradient_PKD, more_PKD in zip(before.gradients, found, strict=True):
                gradient_PKD += more_PKD
    return grad_q_TAD, grad_k_TKD, grad_v_TKD


def tree_attention_with_lse(
    queries_TAD: torch.Tensor,
    own_TKD: KV,
    nodes: Sequence[Node],
    before: Mapping[int, Sequence[KV]] = NOTHING,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [T, A, D] and log-sum-exp [A, T] of every token over its ancestors and itself.

    `before` has keys and values of what comes before some of the roots, by their number, kept as the tokens' own. Where
    the compiled kernel does it, a token has the same numbers, bit for bit, whichever trees it is in.
    """
    if nodes and has_native_attention(own_TKD, queries_TAD):
        return attend_spans(queries_TAD, *tree_spans(nodes, own_TKD, before), own_TKD.keys.shape[1])
    keys_TKD, values_TKD = own_TKD.exact
    tokens, heads, _ = queries_TAD.shape
    output_TAD = torch.empty_like(queries_TAD)
    lse_AT = queries_TAD.new_empty(heads, tokens)
    for index, node in enumerate(nodes):
        own, rows = slice(node.start, node.end), slice(node.start, node.subtree_end)
        block_RAD, block_lse_AR = attend_block(queries_TAD[rows], keys_TKD[own], values_TKD[own], causal=True)
        if node.is_root:
            output_TAD[rows] = block_RAD
            lse_AT[:, rows] = block_lse_AR
        else:
            merge(output_TAD[rows], lse_AT[:, rows], block_RAD, block_lse_AR)
        for run in before.get(index, ()):
            more = attend_block(queries_TAD[rows], *run.exact, causal=False)
            merge(output_TAD[rows], lse_AT[:, rows], *more)
    return output_TAD, lse_AT


def tree_attention(
    queries_TAD: torch.Tensor,
    keys_TKD: torch.Tensor,
    values_TKD: torch.Tensor,
    nodes: Sequence[Node],
    kv_storage: KVStorage = "f32",
    before: LayerPrefix | None = None,
    made: LayerPrefix | None = None,
) -> torch.Tensor:
    """Differentiable attention [T, A, D] of every token over its ancestors and itself, kept as `kv_storage` says.

    All tokens see `before` too, whose gradients are added to its own. Keys and values are remembered in `made`, and
    what is found for it by the time of backward is part of their gradients.
    """
    output = _TreeAttention.apply(queries_TAD, keys_TKD, values_TKD, nodes, kv_storage, before, made)
    return cast(torch.Tensor, output)
