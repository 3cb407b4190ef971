"""What is done when there is too little memory, on made-up machines."""

import math

import pytest

from groat.memory.guard import Guard

MIB = 2**20


def guard_of(*, budget_mib: float = math.inf, resident_mib: int = 100, available_mib: float = math.inf) -> Guard:
    return Guard(
        budget_bytes=budget_mib * MIB, resident=lambda: resident_mib * MIB, available=lambda: available_mib * MIB
    )


def test_the_room_is_what_the_budget_leaves() -> None:
    assert guard_of(budget_mib=300).room() == 200 * MIB
    assert guard_of(budget_mib=80).room() == -20 * MIB


def test_the_room_is_never_more_than_the_machine_has_less_a_reserve() -> None:
    """192 MiB of the machine are left alone."""
    assert guard_of(budget_mib=3000, available_mib=500).room() == 308 * MIB
    assert guard_of(available_mib=150).room() == -42 * MIB
    assert guard_of().room() == math.inf


def test_interventions_are_told_once_with_the_figures_of_their_time() -> None:
    guard = guard_of(budget_mib=1024, resident_mib=512, available_mib=2048)
    guard.intervene("micro-batches cut down to 256 tokens")
    told = "micro-batches cut down to 256 tokens (512 MiB held of 1.00 GiB, 2.00 GiB free on the machine)"
    assert guard.take_interventions() == [told]
    assert guard.take_interventions() == []


def test_a_refusal_names_the_budget_or_the_other_processes_whichever_is_short() -> None:
    by_budget = guard_of(budget_mib=1024, resident_mib=900).refuse("one sequence of 512 tokens", 200 * MIB)
    assert "memory.budget 1.00 GiB cannot be kept: one sequence of 512 tokens needs 200 MiB" in str(by_budget)
    by_machine = guard_of(budget_mib=4096, available_mib=256).refuse("one sequence of 512 tokens", 200 * MIB)
    assert "short of memory" in str(by_machine)
    assert "other processes have left 256 MiB (192 MiB are kept free for them)" in str(by_machine)


@pytest.mark.parametrize("budget_mib", [50, 100])
def test_a_budget_that_is_used_up_leaves_no_room(budget_mib: int) -> None:
    assert guard_of(budget_mib=budget_mib).room() <= 0
