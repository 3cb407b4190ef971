"""What the worker process of an isolated reward function runs."""

from __future__ import annotations

import asyncio
from typing import Any

from groat.tasks.built_rewards import given_to
from groat.tasks.explained import why_of
from groat.tasks.reward_arguments import Logged
from groat.tasks.reward_calls import is_async
from groat.tasks.reward_loading import load_reward
from groat.tasks.reward_values import BadValueError, reward_values


def answer_call(spec: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The function's values and what it logged, or a sentence on what is wrong with them."""
    function, num_completions = load_reward(spec), len(arguments["completions"])
    logged = Logged(num_completions)
    hooks = {"log_metric": logged.log_metric, "log_extra": logged.log_extra}
    given = given_to(function, {**arguments, **hooks})
    returned = asyncio.run(function(**given)) if is_async(function) else function(**given)
    try:
        values = reward_values(returned, num_completions)
    except BadValueError as error:
        return {"bad": str(error), "place": error.place}
    pairs = [[None if value is None else float(value), why_of(value)] for value in values]
    return {"values": pairs, "metrics": logged.metrics, "extras": logged.extras}
