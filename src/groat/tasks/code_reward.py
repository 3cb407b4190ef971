"""The reward for programs: the share of a row's unit tests that the last code block of a completion passes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from groat.tasks.code_blocks import last_code_block
from groat.tasks.code_tests import CodeTests, code_tests, failures
from groat.tasks.sandbox import Limits, Sandbox, SandboxError
from groat.tasks.sandbox.programs import JUDGE_EXTRA_SECONDS
from groat.tasks.sandbox.sandbox import GRACE_SECONDS, START_SECONDS
from groat.tasks.verifiers import Completions, completion_text

MOST_REASONS = 3
NUM_TRIES = 2


class CodeReward:
    """A reward function for rows with a column `tests` (see `code_tests`) and perhaps `test_setup`.

    The share of tests that hold, or with `all_or_nothing` 1 if all do, else 0; None where a row has no tests. Why each
    completion got what it got is logged as the column named like the function. Where programs cannot be run safely,
    making one raises SandboxError.
    """

    def __init__(self, *, all_or_nothing: bool = False, limits: Limits | None = None) -> None:
        self.__name__ = "all_code_tests" if all_or_nothing else "code_tests"
        self._all_or_nothing = all_or_nothing
        self._limits = limits or Limits()
        self._num_at_once = max(1, len(os.sched_getaffinity(0)))
        self._sandbox = Sandbox()
        self._sandbox.check()

    def __call__(
        self,
        completions: Completions,
        tests: Sequence[Any],
        test_setup: Sequence[str | None] | None = None,
        log_extra: Callable[[str, Sequence[Any]], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        setups = [None] * len(tests) if test_setup is None else test_setup
        wanted = [
            None if given is None else code_tests(given, setup) for given, setup in zip(tests, setups, strict=True)
        ]
        sources = [last_code_block(completion_text(completion)) for completion in completions]
        with ThreadPoolExecutor(self._num_at_once, thread_name_prefix="groat code") as threads:
            graded = list(threads.map(self._graded, sources, wanted))
        if log_extra is not None:
            log_extra(self.__name__, [why for _, why in graded])
        return [score for score, _ in graded]

    def most_seconds(self, num_completions: int) -> float:
        """The longest that a call takes, endless programs and all."""
        for_each = self._limits.seconds + JUDGE_EXTRA_SECONDS + 2 * GRACE_SECONDS
        return math.ceil(num_completions / self._num_at_once) * for_each + START_SECONDS

    def close(self) -> None:
        self._sandbox.close()

    def _failures(self, source: str, tests: CodeTests) -> list[str | None]:
        for _ in range(NUM_TRIES):
            try:
                return failures(self._sandbox, source, tests, self._limits)
            except SandboxError:  # this program's doing, or that of one beside it
                continue
        self._sandbox.check()  # raises where the machine is to blame
        return ["the sandbox broke while this program ran"] * tests.num_tests

    def _graded(self, source: str | None, tests: CodeTests | None) -> tuple[float | None, str]:
        """The score, and why."""
        if tests is None:
            return None, "the row has no tests"
        if source is None:
            return 0.0, "no block of code"
        found = self._failures(source, tests)
        failed = [f"test {place + 1}: {why}" for place, why in enumerate(found) if why is not None]
        num_held = len(found) - len(failed)
        score = float(not failed) if self._all_or_nothing else num_held / len(found)
        why = "; ".join([f"{num_held} of {len(found)} tests hold", *failed[:MOST_REASONS]])
        return score, "".join(character if character.isprintable() else "?" for character in why)
