import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from known_specs import LLAMA_8B
from known_specs import SMOLLM2_135M as SPEC

from groat.config.tree import MemoryConfig, RunConfig
from groat.memory import sensitivities as module
from groat.memory.dynamic import DynamicKinds, Known, dynamic_storage
from groat.memory.kept import kept_storage
from groat.memory.plan import MemoryPlan, plan_memory, smallest_budget
from groat.memory.sensitivities import (
    Sensitivities,
    Sensitivity,
    inputs_bytes,
    known_sensitivities,
    read_sensitivities,
)
from groat.memory.sizes import matrices, weight_bytes
from groat.model.fingerprint import fingerprint
from groat.model.locate import read_spec
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.testing import tiny_model
from groat.types import UserError


def made_up(spec: ModelSpec, model_fingerprint: str = "f") -> Sensitivities:
    """Every matrix suffers by its size, the first layer's twenty times as much."""
    shapes = matrices(spec)

    def sensitivity(name: str) -> Sensitivity:
        rows, columns = shapes[name]
        worst = rows * columns * 1e-9 * (20 if name.startswith("layers.0.") else 1)
        inputs = base64.b64encode(bytes(inputs_bytes(columns))).decode()
        return Sensitivity(damages={"int8": worst / 100, "nf4": worst}, inputs=inputs)

    return Sensitivities(
        model="made up",
        fingerprint=model_fingerprint,
        calibration="c",
        matrices={name: sensitivity(name) for name in shapes},
    )


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, ModelSpec]:
    folder = tiny_model(tmp_path / "tiny")
    return folder, read_spec(folder)


def written(tmp_path: Path, sensitivities: Sensitivities, **changes: Any) -> Path:
    path = tmp_path / "sensitivities.json"
    path.write_text(json.dumps(json.loads(sensitivities.to_json()) | changes))
    return path


def test_what_is_written_is_read_back(tmp_path: Path, tiny: tuple[Path, ModelSpec]) -> None:
    folder, spec = tiny
    made = made_up(spec, fingerprint(folder))
    kinds = dict.fromkeys(matrices(spec), "nf4") | {"head": "bf16"}
    made = replace(made, kinds=kinds)
    assert read_sensitivities(written(tmp_path, made), spec, fingerprint(folder)) == made


def test_a_file_of_another_model_is_refused(tmp_path: Path, tiny: tuple[Path, ModelSpec]) -> None:
    folder, spec = tiny
    path = written(tmp_path, made_up(spec, fingerprint(folder)))
    other = tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"measured on another model.*groat quantize"):
        read_sensitivities(path, spec, fingerprint(other))


def _drop_a_matrix(tree: dict[str, Any]) -> None:
    del tree["matrices"]["layers.1.down"]


def _invent_a_matrix(tree: dict[str, Any]) -> None:
    tree["matrices"]["layers.9.down"] = tree["matrices"]["layers.1.down"]


def _rename_a_kind(tree: dict[str, Any]) -> None:
    tree["kinds"] = dict.fromkeys(tree["matrices"], "int3")


def _name_some_kinds(tree: dict[str, Any]) -> None:
    tree["kinds"] = {"head": "nf4"}


def _hostile_kind(tree: dict[str, Any]) -> None:
    tree["kinds"] = {"../../etc/passwd": "nf4"}


def _negative_damage(tree: dict[str, Any]) -> None:
    tree["matrices"]["head"]["damages"]["nf4"] = -1


def _damage_not_a_number(tree: dict[str, Any]) -> None:
    tree["matrices"]["head"]["damages"]["nf4"] = float("nan")


def _damage_in_words(tree: dict[str, Any]) -> None:
    tree["matrices"]["head"]["damages"] = {"int8": "0.1", "nf4": True}


def _not_base64(tree: dict[str, Any]) -> None:
    tree["matrices"]["head"]["inputs"] = "%%%"


def _too_few_inputs(tree: dict[str, Any]) -> None:
    tree["matrices"]["head"]["inputs"] = "AAAA"


def _a_list_for_matrices(tree: dict[str, Any]) -> None:
    tree["matrices"] = ["layers.0.qkv"]


@pytest.mark.parametrize(
    "spoil",
    [
        *(_drop_a_matrix, _invent_a_matrix, _rename_a_kind, _name_some_kinds, _hostile_kind, _negative_damage),
        *(_damage_not_a_number, _damage_in_words, _not_base64, _too_few_inputs, _a_list_for_matrices),
    ],
)
def test_a_damaged_or_hostile_file_is_refused_by_name(tmp_path: Path, tiny: tuple[Path, ModelSpec], spoil: Any) -> None:
    folder, spec = tiny
    tree = json.loads(made_up(spec, fingerprint(folder)).to_json())
    spoil(tree)
    path = tmp_path / "sensitivities.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"sensitivities\.json: .*damaged"):
        read_sensitivities(path, spec, fingerprint(folder))


def test_a_truncated_file_is_refused_but_a_truncated_cache_is_measured_anew(
    tmp_path: Path, tiny: tuple[Path, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, spec = tiny
    monkeypatch.setattr(module, "cache_folder", lambda name: tmp_path / "cache" / name)
    half = made_up(spec, fingerprint(folder)).to_json()[:1000]
    mine, cached = tmp_path / "mine.json", module.cached_path(fingerprint(folder))
    cached.parent.mkdir(parents=True)
    for path in (mine, cached):
        path.write_text(half)
    with pytest.raises(UserError, match="not valid JSON"):
        known_sensitivities(MemoryConfig(sensitivities=str(mine)), spec, folder)
    assert known_sensitivities(MemoryConfig(), spec, folder) is None


def test_a_fingerprint_changes_with_a_weight_and_with_the_config(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny")
    first = fingerprint(folder)
    assert fingerprint(folder) == first
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    second = fingerprint(folder)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert len({first, second, fingerprint(folder)}) == 3


def plan_for(
    budget: str | None, sensitivities: Sensitivities | None = None, kept: Storage | None = None, **memory: Any
) -> MemoryPlan:
    return plan_memory(
        RunConfig(memory=MemoryConfig(budget=budget, **memory)),
        SPEC,
        None,
        Known(sensitivities=sensitivities, kept=kept),
    )


def test_without_a_budget_dynamic_storage_takes_a_tenth_more_than_nf4_or_what_was_chosen_before() -> None:
    known = made_up(SPEC)
    plan = plan_for(None, known, storage="dynamic")
    plain = weight_bytes(SPEC, Storage.of("nf4"))
    assert 1.08 * plain < weight_bytes(SPEC, plan.storage) <= 1.1 * plain
    assert plan.storage.kind_of("layers.0.down") != "nf4"
    chosen = dict.fromkeys(matrices(SPEC), "nf4") | {"layers.7.output": "bf16"}
    plan = plan_for(None, replace(known, kinds=chosen), storage="dynamic")
    assert plan.storage == dynamic_storage(chosen)


def test_what_a_budget_leaves_is_spent_on_the_weights() -> None:
    known = made_up(SPEC)
    for mebibytes in (600, 700, 800, 950):
        plan = plan_for(f"{mebibytes}MiB", known, storage="dynamic")
        left = mebibytes * 2**20 - plan.needed_bytes
        assert 0 <= left < 26 * 2**20, "a second margin, and less than any matrix could have more"
        assert plan.phases["LEARN"]["weights"] == weight_bytes(SPEC, plan.storage)


def test_above_the_size_of_bf16_all_is_bf16() -> None:
    plan = plan_for("8GiB", made_up(SPEC), storage="dynamic")
    assert weight_bytes(SPEC, plan.storage) == weight_bytes(SPEC, Storage.of("bf16"))


def test_dynamic_comes_between_int8_and_nf4() -> None:
    known = made_up(SPEC)
    names = [plan_for(f"{mebibytes}MiB", known).storage.name for mebibytes in range(560, 900, 20)]
    runs = [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]
    assert runs == ["dynamic", "int8", "bf16", "f32"][: len(runs)]
    assert "int8" in runs


def test_before_anything_is_measured_the_measurement_is_planned_and_told() -> None:
    plan = plan_for(None, storage="dynamic")
    assert "after a measurement of about 1 min" in plan.choices["storage"]
    assert plan.phases["MEASURE"]["measurement"] > 100 * 2**20
    known = plan_for(None, made_up(SPEC), storage="dynamic")
    assert "MEASURE" not in known.phases
    assert weight_bytes(SPEC, plan.storage) == pytest.approx(weight_bytes(SPEC, known.storage), rel=0.02)


def test_with_a_budget_dynamic_is_planned_unmeasured_only_where_the_measurement_fits_too() -> None:
    assert plan_for("570MiB", made_up(SPEC)).storage.name == "dynamic"
    assert plan_for("570MiB").storage.name == "nf4"
    plan = plan_memory(RunConfig(memory=MemoryConfig(budget="8GiB")), LLAMA_8B)
    assert plan.storage.name == "dynamic"
    assert "after a measurement" in plan.choices["storage"]
    assert sum(plan.phases["MEASURE"].values()) < 4 * 2**30 < plan.peak_bytes


def test_the_smallest_budget_of_dynamic_storage_can_be_kept_and_less_cannot() -> None:
    known, config = made_up(SPEC), RunConfig(memory=MemoryConfig(storage="dynamic"))
    smallest = smallest_budget(config, SPEC, None, Known(sensitivities=known))
    mebibytes = -(-smallest // 2**20)
    assert plan_for(f"{mebibytes}MiB", known, storage="dynamic").needed_bytes <= mebibytes * 2**20
    with pytest.raises(UserError, match="cannot be kept"):
        plan_for(f"{mebibytes - 2}MiB", known, storage="dynamic")


def test_a_run_keeps_the_storage_of_its_plan(tmp_path: Path) -> None:
    began = plan_for(None, made_up(SPEC), storage="dynamic")
    path = tmp_path / "plan.json"
    path.write_text(began.to_json())
    kept = kept_storage(path, SPEC)
    assert kept == began.storage
    # Another measurement would choose otherwise; the run does not ask it.
    other = replace(made_up(SPEC), kinds=dict.fromkeys(matrices(SPEC), "int8"))
    assert plan_for(None, other, kept, storage="dynamic").storage == began.storage
    assert plan_for("2GiB", other, kept).storage == began.storage


@pytest.mark.parametrize(
    "storage",
    [
        {"layers": "int3", "embedding": "nf4", "exceptions": {}},
        {"layers": "nf4", "embedding": "nf4", "exceptions": {"layers.99.down": "nf4"}},
        {"layers": ["nf4"], "embedding": "nf4", "exceptions": {}},
        {"layers": "nf4", "embedding": "nf4", "exceptions": [1]},
        {},
        7,
    ],
)
def test_a_damaged_plan_does_not_let_a_run_go_on_with_other_weights(tmp_path: Path, storage: Any) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"storage": storage}))
    with pytest.raises(UserError, match=r"plan\.json does not say how the run's weights are stored"):
        kept_storage(path, SPEC)


def test_sensitivities_with_another_storage_than_dynamic_are_refused() -> None:
    with pytest.raises(ValueError, match=r"memory\.sensitivities is for memory\.storage dynamic, but that is int8"):
        MemoryConfig(storage="int8", sensitivities="file.json")


def test_choosing_needs_no_torch() -> None:
    code = "import sys\nimport groat.memory.dynamic, groat.memory.kept\n"
    code += "assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dynamic_kinds_refuse_fewer_bytes_than_all_in_nf4_take() -> None:
    kinds = DynamicKinds(spec=SPEC, sensitivities=made_up(SPEC))
    least = kinds.shares[-1]
    assert kinds.storage(least) == kinds.smallest
    assert kinds.storage(least - 1) is None
