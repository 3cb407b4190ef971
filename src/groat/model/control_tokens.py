"""Keeps a dataset's text from speaking in the model's control tokens.

Before a chat template is rendered, every control token inside a message is hidden behind a placeholder; so each one in
the rendered text was written by the template. Those are given aliases; then the placeholders become plain characters
again, and the whole text is encoded at once by a copy of the tokenizer that knows the aliases but no control tokens.
One pass over the whole text means that ordinary words meet at the seams exactly as they do without any of this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import tokenizers
from tokenizers import AddedToken

from groat.types import UserError

# Noncharacters: Unicode keeps them for a program's inner use, so no text should hold them.
_HIDDEN_START, _ALIAS_START, _END = "\ufdd0", "\ufdd1", "\ufdd2"
_HIDDEN = re.compile(f"{_HIDDEN_START}(\\d+){_END}")
_RESERVED = re.compile(f"[{_HIDDEN_START}{_ALIAS_START}{_END}]")


class ControlTokens:
    """The special tokens of a tokenizer, and its stop tokens whether it calls them special or not."""

    def __init__(self, backend: tokenizers.Tokenizer, stop_token_ids: Iterable[int]) -> None:
        added = backend.get_added_tokens_decoder()
        stops = set(stop_token_ids)
        control = {i: token for i, token in added.items() if (token.special or i in stops) and token.content}
        self._backend = backend
        self._tokens = [token for _, token in sorted(control.items())]
        self._ids = sorted(control)
        self._numbers = {token.content: number for number, token in enumerate(self._tokens)}
        # The longest first, so that <|a|> is not found inside <|a|>b.
        longest_first = sorted(self._numbers, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def occur_in(self, text: str) -> bool:
        return self._pattern.search(text) is not None

    def hide(self, text: str) -> str:
        """The text with each control token replaced by a placeholder."""
        if reserved := _RESERVED.search(text):
            raise UserError(
                f"a chat turn beside one with a control token holds U+{ord(reserved[0]):04X}, which groat keeps for "
                "itself. Remove that character from this row of the dataset."
            )
        return self._pattern.sub(lambda found: f"{_HIDDEN_START}{self._numbers[found[0]]}{_END}", text)

    def encode_hidden(self, rendered: str) -> list[int]:
        """Ids of a text rendered from hidden messages: control tokens where the template wrote them, only there."""
        aliased = self._pattern.sub(lambda found: _alias(self._numbers[found[0]]), rendered)
        ids = self._aliasing_backend.encode(_HIDDEN.sub(self._shown, aliased), add_special_tokens=False).ids
        if not set(self._ids).isdisjoint(ids):
            raise UserError(
                "a chat turn holds a control token that this tokenizer makes from plain text as well. Remove it from "
                "this row of the dataset."
            )
        return [self._aliases.get(token_id, token_id) for token_id in ids]

    def _shown(self, found: re.Match[str]) -> str:
        number = int(found[1])
        assert number < len(self._tokens)
        return self._tokens[number].content

    @cached_property
    def _aliasing_backend(self) -> tokenizers.Tokenizer:
        description: dict[str, Any] = json.loads(self._backend.to_str())
        for added in description["added_tokens"]:
            added["special"] = added["special"] or added["content"] in self._numbers
        copy = tokenizers.Tokenizer.from_str(json.dumps(description))
        copy.encode_special_tokens = True
        copy.add_tokens([_aliased(token, number) for number, token in enumerate(self._tokens)])
        return copy

    @cached_property
    def _aliases(self) -> dict[int, int]:
        """The control token's id for each alias's id."""
        ids = (self._aliasing_backend.token_to_id(_alias(number)) for number in range(len(self._ids)))
        return {alias: control for alias, control in zip(ids, self._ids, strict=True) if alias is not None}


def _alias(number: int) -> str:
    return f"{_ALIAS_START}{number}{_END}"


def _aliased(token: AddedToken, number: int) -> AddedToken:
    return AddedToken(
        _alias(number),
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=False,
        special=False,
    )
