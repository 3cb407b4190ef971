"""LoRA on a base in fewer bits has the gradients it would have on the same base dequantized."""

from __future__ import annotations

import pytest
from learner_examples import credit_of, grpo, learner_of, one_update, random_samples
from quantized_decoders import KINDS, SPEC, Kind, mapped, quantized
from tiny_decoders import tiny_adapter

from groat.kernels.matrix import dense_of
from groat.model.decoder import Decoder
from groat.model.recompute import Recompute


@pytest.mark.parametrize("recompute", [None, Recompute(every=1)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_through_the_whole_model_are_those_through_its_dequantized_twin(
    kind: Kind, recompute: Recompute | None
):
    decoder = quantized(kind)
    twin = Decoder(SPEC, mapped(decoder.weights, lambda weight_NK: dense_of(weight_NK).float()))
    ours, theirs = (
        one_update(learner_of(base, tiny_adapter(SPEC), recompute=recompute), credit_of(random_samples()), grpo())
        for base in (decoder, twin)
    )
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, gradient in ours.gradients.items():
        assert (gradient - theirs.gradients[name]).norm() < 1e-4 * theirs.gradients[name].norm(), name
