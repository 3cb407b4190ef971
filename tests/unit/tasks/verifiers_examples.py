"""Environments of the shape of those of the package `verifiers` 0.1.9 to 0.3.1, which need not be installed: messages
are mappings and rows lists, and the loop that a model server would drive is left out."""

from __future__ import annotations

import json
import signal
from typing import Any, ClassVar


class Parser:
    def answer(self, text: str) -> str:
        return text.rpartition("=")[2].strip()


class Rubric:
    def __init__(self, funcs: list[Any], weights: list[float]) -> None:
        self.funcs, self.weights = funcs, weights
        self.class_objects = {"parser": Parser()}


class RubricGroup:
    def __init__(self, *rubrics: Rubric) -> None:
        self.rubrics = list(rubrics)


class MultiTurnEnv:
    message_type = "chat"

    def __init__(self, rubric: Any, rows: int = 4, max_turns: int = -1) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the package does
        self.rubric, self.max_turns = rubric, max_turns
        self.dataset = [
            {
                "prompt": [{"role": "user", "content": [{"type": "text", "text": f"{n} + 1"}], "tool_calls": None}],
                "answer": str(n + 1),
                "info": {"n": n},
            }
            for n in range(rows)
        ]
        self.eval_dataset = None

    async def init_state(self, row: dict[str, Any], client: Any, model: str, sampling_args: Any) -> dict[str, Any]:
        state = {**row, "client": client, "model": model, "trajectory": [], "trajectory_id": "t", "is_completed": False}
        return state | {"error": None, "final_env_response": None, "is_truncated": False, "task": "sums"}

    async def setup_state(self, state: dict[str, Any]) -> None:
        state["said"] = []

    async def is_completed(self, state: dict[str, Any]) -> bool:
        ended = len(state["trajectory"]) == self.max_turns or self.is_over(state)
        state["is_completed"] = bool(ended or state["error"] or state["final_env_response"] is not None)
        return state["is_completed"]

    def is_over(self, state: dict[str, Any]) -> bool:
        return False

    async def get_prompt_messages(self, state: dict[str, Any]) -> list[Any]:
        last = state["trajectory"][-1]
        messages = [*last["prompt"], *last["completion"]]
        return [*messages, *await self.env_response(messages, state)]

    async def env_response(self, messages: list[Any], state: dict[str, Any]) -> list[Any]:
        raise NotImplementedError

    async def add_trajectory_step(self, state: dict[str, Any], step: dict[str, Any]) -> None:
        state["trajectory"].append(step)

    async def render_completion(self, state: dict[str, Any]) -> None:
        last = state["trajectory"][-1]
        end = state["final_env_response"] or []
        state["completion"] = [*last["prompt"], *last["completion"], *end][len(state["prompt"]) :]


def right(completion: list[Any], answer: str, parser: Parser) -> float:
    return float(parser.answer(completion[-1]["content"]) == answer)


async def knows_its_row(prompt: Any, info: Any, task: str, state: Any, **_: Any) -> float:
    assert prompt == [{"role": "user", "content": f"{info['n']} + 1"}]
    state["seen"] = True
    return 0.5 if task == "sums" else 0.0


def was_seen(state: Any) -> float:
    """Functions are asked in order, and share the state."""
    return float(state["seen"])


def share_of_group(states: list[Any], completions: list[Any]) -> list[float]:
    lengths = [len(completion[-1]["content"]) for completion in completions]
    return [length / sum(lengths) for length in lengths]


def single_turn(rows: int = 4) -> MultiTurnEnv:
    functions = Rubric([right, knows_its_row, was_seen], [1.0, 0.2, 0.0])
    return MultiTurnEnv(RubricGroup(functions, Rubric([share_of_group], [0.1])), rows, max_turns=1)


class Guess(MultiTurnEnv):
    async def env_response(self, messages: list[Any], state: dict[str, Any]) -> list[Any]:
        text = messages[-1]["content"]
        state["said"].append(text)
        if text == "client":
            await state["client"].get_response(messages)
        if text == "broken":
            raise ValueError("no guess")
        if text == "image":
            return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
        if text == state["answer"]:
            state["final_env_response"] = [{"role": "user", "content": "Right."}]
            return state["final_env_response"]
        return [{"role": "user", "content": f"Not {text}."}]


def all_said(completion: list[Any]) -> float:
    return float(len(completion))


def guess(rows: int = 4) -> MultiTurnEnv:
    return Guess(Rubric([all_said], [1.0]), rows, max_turns=3)


class Forgets(Guess):
    async def get_prompt_messages(self, state: dict[str, Any]) -> list[Any]:
        return [{"role": "user", "content": "Anew."}] * 4


def forgets() -> MultiTurnEnv:
    return Forgets(Rubric([all_said], [1.0]))


class Adds(MultiTurnEnv):
    oai_tools: ClassVar[list[Any]] = [
        {
            "type": "function",
            "function": {
                "name": "add",
                "description": "Adds.",
                "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
            },
        }
    ]

    def is_over(self, state: dict[str, Any]) -> bool:
        return bool(state["trajectory"]) and "tool_calls" not in state["trajectory"][-1]["completion"][-1]

    async def env_response(self, messages: list[Any], state: dict[str, Any]) -> list[Any]:
        return [
            {
                "role": "tool",
                "content": str(sum(json.loads(call["function"]["arguments"]).values())),
                "tool_call_id": call["id"],
            }
            for call in messages[-1]["tool_calls"]
        ]


def adds() -> MultiTurnEnv:
    return Adds(Rubric([right], [1.0]), max_turns=5)


class OwnLoop(MultiTurnEnv):
    async def rollout(self) -> None: ...


def own_loop() -> MultiTurnEnv:
    return OwnLoop(Rubric([right], [1.0]))


class OwnServer(MultiTurnEnv):
    async def get_model_response(self) -> None: ...


def own_server() -> MultiTurnEnv:
    return OwnServer(Rubric([right], [1.0]))


class OwnScores(Rubric):
    async def score_rollout(self) -> None: ...


def own_scores() -> MultiTurnEnv:
    return MultiTurnEnv(OwnScores([right], [1.0]))


def no_weight() -> MultiTurnEnv:
    return MultiTurnEnv(Rubric([right], [0.0]))


def plain_text() -> MultiTurnEnv:
    environment = single_turn()
    environment.message_type = "completion"
    return environment


def no_environment() -> object:
    return object()
