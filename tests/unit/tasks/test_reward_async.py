"""Async reward functions run side by side, on one event loop, under the same time limit."""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest
from reward_examples import a_grader, a_group

from groat.tasks import Grader, RewardError, RewardFunction


def test_async_functions_run_side_by_side():
    both_here = []

    def waiting(name):
        async def reward(completions, **kwargs):
            both_here.append(name)
            while len(both_here) < 2:  # would never end if they ran one after another
                await asyncio.sleep(0.01)
            return [1.0]

        return RewardFunction(name=name, function=reward)

    [group] = Grader([waiting("one"), waiting("two")], timeout_seconds=5).grade([a_group("a")])
    assert group.rewards[0].parts == {"one": 1.0, "two": 1.0}


def test_sync_and_async_values_keep_the_order_of_the_functions():
    async def first(completions):
        return [1.0]

    def second(completions):
        return [2.0]

    [group] = a_grader(first, second).grade([a_group("a")])
    assert list(group.rewards[0].parts.items()) == [("first", 1.0), ("second", 2.0)]


def test_async_functions_keep_their_event_loop_between_calls():
    loops = []

    async def reward(completions):
        loops.append(asyncio.get_running_loop())
        return [1.0]

    grader = a_grader(reward)
    for _ in range(3):
        grader.grade([a_group("a")])
    assert loops[0] is loops[1] is loops[2]


def test_async_objects_and_partials_are_awaited():
    class Remote:
        async def __call__(self, completions):
            return [1.0]

    async def scaled(completions, factor):
        return [factor]

    functions = [
        RewardFunction(name="object", function=Remote()),
        RewardFunction(name="partial", function=functools.partial(scaled, factor=3.0)),
    ]
    [group] = Grader(functions).grade([a_group("a")])
    assert group.rewards[0].parts == {"object": 1.0, "partial": 3.0}


def test_a_sync_function_may_run_its_own_event_loop():
    async def remote():
        return 1.0

    def reward(completions):
        return [asyncio.run(remote())]

    assert a_grader(reward).grade([a_group("a")])[0].rewards[0].total == 1.0


def test_a_hanging_async_function_is_the_one_that_is_named():
    async def fine(completions):
        return [1.0]

    async def hanging(completions):
        await asyncio.sleep(60)

    with pytest.raises(RewardError, match=r"reward function hanging did not return within 0.2 s"):
        a_grader(fine, hanging, timeout_seconds=0.2).grade([a_group("a")])


def test_an_async_function_that_will_not_be_cancelled_or_blocks_is_an_error_all_the_same():
    release = threading.Event()

    async def stubborn(completions):
        while not release.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    async def blocking(completions):
        release.wait(20)

    for function in (stubborn, blocking):
        with pytest.raises(RewardError, match=f"{function.__name__} did not return"):
            a_grader(function, timeout_seconds=0.1).grade([a_group("a")])
    release.set()


def test_an_async_function_that_cancels_itself_is_an_error():
    async def reward(completions):
        raise asyncio.CancelledError

    with pytest.raises(RewardError, match=r"raised .*CancelledError"):
        a_grader(reward).grade([a_group("a")])


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_forgotten_await_is_an_error():
    async def inner(completions):
        return [1.0]

    def reward(completions):
        return inner(completions)

    with pytest.raises(RewardError, match=r"\(coroutine\); it must return a list"):
        a_grader(reward).grade([a_group("a")])
