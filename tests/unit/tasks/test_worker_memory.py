"""What reward workers hold, beside what the plan counts for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from groat.config.tree import MemoryConfig, RunConfig, TaskConfig
from groat.memory.phases import REWARD_WORKERS
from groat.memory.plan import plan_memory
from groat.memory.workload import Workload
from groat.tasks import build_task
from groat.tasks.isolated_rewards import RESIDENT_BYTES
from groat.tasks.reward_loading import load_reward
from groat.tasks.rewards import RewardFunction, worker_bytes

MIB = 2**20


def held_by_children() -> dict[int, int]:
    """Resident bytes of the worker processes under this one, by their ids."""
    found: dict[int, int] = {}
    own = str(Path("/proc/self").resolve().name)
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            is_worker = b"isolation/child.py" in (status.parent / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if is_worker and fields["PPid"].strip() == own and "VmRSS" in fields:
            found[int(status.parent.name)] = int(fields["VmRSS"].split()[0]) * 1024
    return found


@pytest.mark.parametrize(
    ("spec", "num_workers", "columns"),
    [
        ("math_answer(num_workers=2)", 2, {"answer": ["1/2", "1/3"]}),
        ("regex(pattern='a+', num_workers=2)", 2, {}),
        ("json_schema(schema='schema.json', num_workers=2)", 2, {}),
        ("weighted_sum(regex(pattern='a', num_workers=1), regex(pattern='b', num_workers=1))", 2, {}),
    ],
)
def test_workers_hold_what_is_counted_for_them(
    spec: str, num_workers: int, columns: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("schema.json").write_text('{"type": "object"}')
    before = held_by_children()
    reward = load_reward(spec)
    try:
        # Neither is the answer letter by letter, so that both are decided in workers.
        reward(completions=[r"\boxed{\frac{2}{4}}", r"\boxed{\frac{2}{6}}"], **columns)
        held = {pid: size for pid, size in held_by_children().items() if pid not in before}
        if not held:
            pytest.skip("this system does not tell what processes hold")
        assert 1 <= len(held) <= num_workers
        counted = reward.worker_bytes / num_workers  # type: ignore[attr-defined]
        for size in held.values():
            assert size == pytest.approx(counted, rel=0.25)
    finally:
        reward.close()  # type: ignore[attr-defined]


def test_an_isolated_function_of_a_file_has_one_worker(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def mine(completions, **_):\n    return [1.0 for _ in completions]\n")
    before = held_by_children()
    reward = load_reward(f"{file}:mine", isolated_seconds=20)
    try:
        assert reward(completions=["a"]) == [1.0]
        held = [size for pid, size in held_by_children().items() if pid not in before]
        if not held:
            pytest.skip("this system does not tell what processes hold")
        assert held == [pytest.approx(RESIDENT_BYTES, rel=0.25)]
    finally:
        reward.close()  # type: ignore[attr-defined]


def test_rewards_without_workers_hold_nothing() -> None:
    assert worker_bytes(build_task(TaskConfig(), 0).rewards) == 0
    two = [RewardFunction(name=str(n), function=load_reward("regex(pattern='a', num_workers=3)")) for n in range(2)]
    assert worker_bytes(two) == 2 * 3 * 36 * MIB


def test_they_are_a_line_of_the_plan_and_part_of_its_budget() -> None:
    from known_specs import SMOLLM2_135M

    config = RunConfig(memory=MemoryConfig(budget="2GiB"))
    without, with_workers = (
        plan_memory(config, SMOLLM2_135M, Workload.of(config, worker_bytes=n)) for n in (0, 500 * MIB)
    )
    for phase in ("SAMPLE", "SCORE", "LEARN"):
        assert with_workers.phases[phase][REWARD_WORKERS] == 500 * MIB
        assert REWARD_WORKERS not in without.phases[phase]
        assert with_workers.own_phases[phase] == sum(with_workers.phases[phase].values()) - 500 * MIB
    assert REWARD_WORKERS not in with_workers.phases["LOAD"]
    assert with_workers.needed_bytes <= 2**31
    # What the workers take is not there for this process.
    assert max(with_workers.own_phases.values()) <= 2**31 - 500 * MIB
