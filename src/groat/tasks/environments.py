"""What a model can talk to while it answers: asked after each of its turns, an environment says how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from groat.types import Message, Problem, ToolCall, Turn, UserError

MOST_CHARACTERS = 100_000
"""Of what an environment says at once: more is a mistake."""
EXAMPLE: tuple[Message, ...] = ({"role": "user", "content": "?"},)
"""Turns such as replies are made of where there are no tools."""


class OwnEnvironmentError(UserError):
    """An environment of the user's own failed. It ends the run, as a reward function that fails does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How the conversation goes on."""

    turns: tuple[Turn, ...]
    """What the model reads before it writes again; none are its own."""
    calls: tuple[ToolCall, ...] = ()
    """What was understood of the model's turn."""


class Environment(Protocol):
    """What one completion talks to. It may remember; it is made anew for every completion."""

    def reply(self, text: str) -> Reply | str | None:
        """After a turn of the model's, without its stop token: what comes next (a text: a user's turn), or None where
        the answer is complete. It is not asked after the last turn that the model may take."""
        ...


class Conversation(Environment, Protocol):
    """An environment as a completion meets it."""

    @property
    def environment(self) -> Any:
        """What reward functions get that ask for `environments`: the user's own object; None: there is none."""
        ...


class Environments(Protocol):
    """Makes the environments of a task, and says what a model has to know of them."""

    @property
    def max_turns(self) -> int:
        """Turns that the model may take."""
        ...

    @property
    def schemas(self) -> Sequence[Mapping[str, Any]]:
        """Tools that the chat template is to tell of, as JSON schemas of functions."""
        ...

    def for_template(self, source: str) -> Environments:
        """The same, as a model with this chat template knows them."""
        ...

    def shown(self, problem: Problem) -> str | tuple[Message, ...]:
        """The problem's prompt as it is put to the model."""
        ...

    def example(self) -> tuple[Message, ...]:
        """Turns such as replies are made of: a chat template that refuses them is told before the run."""
        ...

    def begin(self, problem: Problem) -> Conversation: ...

    def close(self) -> None:
        """Gives back what is held, such as processes; a later call takes it again."""
        ...


@dataclass(frozen=True, kw_only=True)
class OwnEnvironments:
    """Environments that a function makes, one for each completion of a problem."""

    make: Callable[[Problem], Environment]
    max_turns: int
    schemas: tuple[Mapping[str, Any], ...] = ()

    def for_template(self, source: str) -> OwnEnvironments:
        del source
        return self

    def shown(self, problem: Problem) -> str | tuple[Message, ...]:
        return problem.prompt

    def example(self) -> tuple[Message, ...]:
        return EXAMPLE

    def begin(self, problem: Problem) -> Conversation:
        environment = self.make(problem)
        return CheckedConversation(environment, problem, type(environment).__name__)

    def close(self) -> None:
        return


class CheckedConversation:
    """An environment whose mistakes are named."""

    def __init__(self, environment: Environment, problem: Problem, name: str) -> None:
        self.environment = environment
        self._problem = problem
        self._name = name

    def reply(self, text: str) -> Reply | None:
        try:
            given = self.environment.reply(text)
        except Exception as error:
            raise self._mistake(f"raised {type(error).__name__}: {str(error)[:300]}") from error
        if given is None:
            return None
        if isinstance(given, str):
            given = Reply(turns=(Turn(role="user", content=given),))
        if not isinstance(given, Reply):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise self._mistake(f"returned a {type(given).__name__}, not a Reply, a text or None")
        if not given.turns or any(turn.is_models for turn in given.turns):
            raise self._mistake("must reply with at least one turn, and none of the assistant's")
        if sum(len(turn.content) for turn in given.turns) > MOST_CHARACTERS:
            raise self._mistake(f"replied with more than {MOST_CHARACTERS} characters")
        return replace(given, turns=tuple(replace(turn, content=cleaned(turn.content)) for turn in given.turns))

    def _mistake(self, what: str) -> OwnEnvironmentError:
        return OwnEnvironmentError(f"the environment {self._name} {what} (problem {self._problem.id})")


def cleaned(text: str) -> str:
    """Without half characters, NUL, and characters that Unicode keeps for a program's inner use, which no template
    takes."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(
        "\ufffd" if character == "\0" or "\ufdd0" <= character <= "\ufdef" else character for character in whole
    )
