"""The head in chunks beside the head at once."""

from __future__ import annotations

import pytest
import torch

from groat.learning.logprobs import chunked_logprobs

N, H, V = 11, 6, 17


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows_NH, head_VH = (torch.randn(size, H, generator=generator, dtype=torch.float64) for size in (N, V))
    token_ids_N = torch.randint(V, (N,), generator=generator)
    return (3 * rows_NH).to(dtype).requires_grad_(), head_VH.to(dtype), token_ids_N


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 3, N, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_chunks_change_nothing(dtype: torch.dtype, tolerance: float, chunk: int, temperature: float):
    rows_NH, head_VH, token_ids_N = inputs(dtype)
    logprobs_N, entropy_N = chunked_logprobs(rows_NH, head_VH, token_ids_N, temperature, chunk)

    full_NV = (rows_NH @ head_VH.T / temperature).log_softmax(-1)
    expected_N = full_NV.gather(1, token_ids_N[:, None])[:, 0]
    # Relative, because fp32 itself is: these log-probs reach -30.
    torch.testing.assert_close(logprobs_N, expected_N, rtol=tolerance, atol=tolerance)
    expected_entropy_N = -(full_NV.exp() * full_NV).sum(-1).detach()
    torch.testing.assert_close(entropy_N, expected_entropy_N, rtol=tolerance, atol=tolerance)

    weight_N = torch.linspace(-1, 2, N, dtype=dtype)
    (ours,) = torch.autograd.grad((logprobs_N * weight_N).sum(), rows_NH)
    (theirs,) = torch.autograd.grad((expected_N * weight_N).sum(), rows_NH)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=4 * tolerance)


def test_gradient_is_the_finite_difference():
    rows_NH, head_VH, token_ids_N = inputs(torch.float64)
    assert torch.autograd.gradcheck(lambda rows: chunked_logprobs(rows, head_VH, token_ids_N, 0.7, 4)[0], (rows_NH,))


def test_the_entropy_takes_no_gradient():
    rows_NH, head_VH, token_ids_N = inputs(torch.float32)
    _, entropy_N = chunked_logprobs(rows_NH, head_VH, token_ids_N, 1.0, 4)
    assert not entropy_N.requires_grad


def test_no_rows_give_no_logprobs():
    logprobs_N, entropy_N = chunked_logprobs(
        torch.empty(0, H), torch.ones(V, H), torch.empty(0, dtype=torch.long), 1, 4
    )
    assert logprobs_N.shape == entropy_N.shape == (0,)


def test_two_equal_logits_by_hand():
    """Both tokens have probability 1/2: a log-prob of -ln 2, an entropy of ln 2."""
    logprobs_N, entropy_N = chunked_logprobs(torch.ones(1, 1), torch.ones(2, 1), torch.tensor([1]), 1.0, 4)
    assert logprobs_N.item() == pytest.approx(-0.693147, abs=1e-6)
    assert entropy_N.item() == pytest.approx(0.693147, abs=1e-6)


def test_very_large_logits_stay_finite():
    head_VH = torch.tensor([[1000.0], [-1000.0]])
    rows_NH = torch.ones(1, 1, requires_grad=True)
    logprobs_N, entropy_N = chunked_logprobs(rows_NH, head_VH, torch.tensor([1]), 1.0, 4)
    (gradient,) = torch.autograd.grad(logprobs_N.sum(), rows_NH)
    assert logprobs_N.item() == -2000
    assert entropy_N.item() == 0
    assert gradient.item() == -2000


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_entropy_has_the_gradient_of_the_whole_head_where_it_is_asked_for(chunk: int, temperature: float):
    rows_NH, head_VH, token_ids_N = inputs(torch.float64)
    logprobs_N, entropy_N = chunked_logprobs(rows_NH, head_VH, token_ids_N, temperature, chunk, entropy_gradient=True)
    full_NV = (rows_NH @ head_VH.T / temperature).log_softmax(-1)
    expected_entropy_N = -(full_NV.exp() * full_NV).sum(-1)
    weight_N = torch.linspace(-1, 2, N, dtype=torch.float64)
    both = ((logprobs_N * weight_N).sum() + (entropy_N * weight_N**2).sum()) * 3
    expected = (full_NV[range(N), token_ids_N] * weight_N).sum() * 3 + (expected_entropy_N * weight_N**2).sum() * 3
    (ours,) = torch.autograd.grad(both, rows_NH)
    (theirs,) = torch.autograd.grad(expected, rows_NH)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_the_gradient_of_the_entropy_is_the_finite_difference():
    rows_NH, head_VH, token_ids_N = inputs(torch.float64)
    assert torch.autograd.gradcheck(
        lambda rows: chunked_logprobs(rows, head_VH, token_ids_N, 0.7, 4, entropy_gradient=True), (rows_NH,)
    )
