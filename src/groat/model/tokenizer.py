"""Text to token ids and back, with the model's chat template.

What a dataset wrote never becomes a control token: a `<|im_end|>` inside a message is encoded as the characters it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, cast

import tokenizers

from groat.config.tree import ModelConfig
from groat.model.chat_template import CHATML_TEMPLATE, PLAIN_TEMPLATE, TEMPLATES, ChatTemplate
from groat.model.control_tokens import ControlTokens
from groat.model.files import read_json_object_if_there, read_text
from groat.types import Message, UserError

log = logging.getLogger("groat")

_ANSWERED = "groat-answered-turn"
"""Stands for what the model wrote while a template shows what comes behind it."""
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endofturn|>")
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


class Tokenizer:
    """A model's tokenizer; made by `from_folder`."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        template: ChatTemplate,
        *,
        has_own_template: bool,
        special_tokens: Mapping[str, str],
        bos_token_ids: Sequence[int],
        stop_token_ids: Iterable[int],
        num_bytes: int = 0,
    ) -> None:
        self._backend = backend
        self._template = template
        self._special_tokens = dict(special_tokens)
        self._bos_token_ids = list(bos_token_ids)
        self.num_bytes = num_bytes
        """Of the file."""
        self.has_own_template = has_own_template
        """False: the model came without a chat template, and groat's default is used."""
        self.stop_token_ids = frozenset(stop_token_ids)
        """Tokens that end a completion."""
        self.vocab_size = max(backend.get_vocab().values()) + 1
        """One more than the largest token id."""
        self._control = ControlTokens(backend, self.stop_token_ids)
        self._end_token_id = _end_token_id(backend, special_tokens, self.stop_token_ids)

    @classmethod
    def from_folder(
        cls, folder: Path, chat_template: Path | str | None = None, model_name: str | None = None
    ) -> Tokenizer:
        """Read tokenizer.json and its companions; a UserError names the file that is missing or damaged.

        `chat_template`: a file, or the name of one of `TEMPLATES`.
        """
        config = read_json_object_if_there(folder / "tokenizer_config.json")
        backend = _backend(folder)
        special_tokens = _special_tokens(config)
        own = _own_template(folder, config, chat_template)
        template = own or _default_template(backend, model_name or folder.name)
        return cls(
            backend,
            template,
            has_own_template=own is not None,
            special_tokens=special_tokens,
            bos_token_ids=_bos_token_ids(backend, config, special_tokens),
            stop_token_ids=_stop_token_ids(folder, backend, special_tokens, template),
            num_bytes=(folder / "tokenizer.json").stat().st_size,
        )

    def encode(self, text: str) -> list[int]:
        """Nothing is added; control tokens written in the text are recognised."""
        _check_text(text, "a text")
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_prompt(
        self, problem_prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Plain text as it is (with BOS, once, if the model's tokenizer adds one), chat turns by the chat template,
        which also tells of the tools (JSON schemas of functions)."""
        if isinstance(problem_prompt, str):
            ids = self.encode(problem_prompt)
            has_bos = ids[: len(self._bos_token_ids)] == self._bos_token_ids
            return ids if has_bos else self._bos_token_ids + ids
        return self.encode_chat(problem_prompt, tools)

    def encode_answer(self, prompt: str | Sequence[Message], answer: str) -> list[int]:
        """What the model would have to draw after `encode_prompt(prompt)` to write this answer and end it: of a chat,
        what the template makes of the assistant's turn, up to the first token that ends a completion."""
        if isinstance(prompt, str):
            return self._ended(self.encode(answer))
        turn = {"role": "assistant", "content": answer}
        _check_messages([*prompt, turn])
        hidden = self._hidden([*prompt, turn])
        start = self._template.render(hidden[:-1], self._special_tokens)
        whole = self._template.render(hidden, self._special_tokens, add_generation_prompt=False)
        # Some templates write the turn that is answered otherwise than one that was: Qwen3's, around its thinking.
        written = whole.removeprefix(start) if whole.startswith(start) else hidden[-1]["content"]
        first_ids, ids = self._control.encode_hidden(start), self._control.encode_hidden(start + written)
        # Tokens of prompt and answer never merge when an answer is drawn.
        begins_alike = ids[: len(first_ids)] == first_ids
        return self._ended(ids[len(first_ids) :] if begins_alike else self._control.encode_hidden(written))

    def _ended(self, ids: Sequence[int]) -> list[int]:
        """Up to the first stop token; where there is none, with one, if the model has any, after the last word."""
        end = next((place for place, token in enumerate(ids) if token in self.stop_token_ids), None)
        if end is not None:
            return list(ids[: end + 1])
        return [*self._without_blank_end(ids), *([] if self._end_token_id is None else [self._end_token_id])]

    def _without_blank_end(self, ids: Sequence[int]) -> Sequence[int]:
        """What a template writes between turns is no part of an answer."""
        last = next((place for place in reversed(range(len(ids))) if self.decode(ids[place : place + 1]).strip()), -1)
        return ids[: last + 1]

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Chat turns by the chat template, up to where the assistant answers, or without that last opening."""
        _check_messages(messages)
        if not self._control_tokens_in(messages):
            return self.encode(self.render(messages, tools, add_generation_prompt=add_generation_prompt))
        hidden = self.render(self._hidden(messages), tools, add_generation_prompt=add_generation_prompt)
        return self._control.encode_hidden(hidden)

    def encode_reply(self, messages: Sequence[Message], *, is_turn_ended: bool) -> list[int]:
        """What the chat template puts behind a turn of the assistant where these messages answer it, up to where the
        assistant writes again.

        `is_turn_ended`: the turn's own stop token has been drawn, and is left out. What the model wrote is not encoded
        again.
        """
        hidden = self._hidden(messages) if (has_control := self._control_tokens_in(messages)) else messages
        asked = ({"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWERED})
        behind = self.render([*asked, *hidden]).rpartition(_ANSWERED)[2]
        ids = self._control.encode_hidden(behind) if has_control else self.encode(behind)
        first_stop = next((place for place, token in enumerate(ids) if token in self.stop_token_ids), None)
        if first_stop is None or self.decode(ids[:first_stop]).strip():
            return ids  # the template ends turns without a stop token
        return ids[first_stop + is_turn_ended :]

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        """The conversation as the model sees it, up to where the assistant answers, or without that last opening."""
        _check_messages(messages)
        return self._template.render(messages, self._special_tokens, tools, add_generation_prompt=add_generation_prompt)

    def _control_tokens_in(self, messages: Sequence[Message]) -> bool:
        return any(self._control.occur_in(text) for message in messages for text in message.values())

    def _hidden(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        return [{key: self._control.hide(text) for key, text in message.items()} for message in messages]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of the tokens; special tokens are left out unless asked for."""
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """bos_token, eos_token, unk_token and pad_token, as far as the model names them."""
        return self._special_tokens

    @property
    def template_source(self) -> str:
        """The chat template, as jinja text."""
        return self._template.source

    def with_template(self, source: str, where: str) -> Tokenizer:
        """The same tokenizer with another chat template; `where` is what errors call it."""
        changed = copy(self)
        changed._template, changed.has_own_template = ChatTemplate(source, where), True
        return changed

    def token_id(self, token: str) -> int | None:
        """None: there is no such token."""
        return self._backend.token_to_id(token)


def read_tokenizer(config: ModelConfig, folder: Path) -> Tokenizer:
    """The tokenizer in a model's folder, with the chat template that the user chose, if any."""
    asked = config.chat_template
    template = asked if asked is None or asked in TEMPLATES else Path(asked).expanduser()
    return Tokenizer.from_folder(folder, template, model_name=config.name)


def _check_messages(messages: Sequence[Message]) -> None:
    for place, message in enumerate(cast(Sequence[Any], messages)):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(cast(Mapping[Any, Any], message)):
            raise UserError(f"chat turn {place} is {str(message)[:80]!r}; it must have a role and a content.")
        for key, value in cast(Mapping[Any, Any], message).items():
            _check_text(value, f"the {key} of chat turn {place}")


def _check_text(text: Any, what: str) -> None:
    if not isinstance(text, str):
        raise UserError(f"{what} is a {type(text).__name__}, not text. Correct this row of the dataset.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, which is no "
            "character. Correct this row of the dataset."
        ) from error


def _backend(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise UserError(
            f"{folder} has no tokenizer.json. groat reads no other tokenizer files: get it from the model's page, or "
            "write it with transformers' AutoTokenizer.save_pretrained."
        )
    text = read_text(path)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(
            f"{path} is not a tokenizer ({str(error)[:200]}). The file is damaged: get it again."
        ) from error
    if not backend.get_vocab():
        raise UserError(f"{path} has an empty vocabulary. The file is damaged: get it again.")
    # Settings of whoever saved the file; they would cut prompts or pad them.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token and the like; older files hold objects with a `content`."""
    tokens: dict[str, str] = {}
    for name in _NAMED_TOKENS:
        value: Any = config.get(name)
        value = cast(dict[str, Any], value).get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            tokens[name] = value
    return tokens


def _own_template(folder: Path, config: Mapping[str, Any], asked: Path | str | None) -> ChatTemplate | None:
    if isinstance(asked, str):
        return ChatTemplate(TEMPLATES[asked], f"groat's {asked} template")
    if asked is not None:
        return ChatTemplate(read_text(asked), f"model.chat_template ({asked})")
    if (path := folder / "chat_template.jinja").exists():
        return ChatTemplate(read_text(path), str(path))
    source: Any = config.get("chat_template")
    if isinstance(source, list):
        named = [cast(dict[str, Any], entry) for entry in cast(list[Any], source) if isinstance(entry, dict)]
        source = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    return ChatTemplate(source, str(folder / "tokenizer_config.json")) if isinstance(source, str) else None


def _default_template(backend: tokenizers.Tokenizer, model_name: str) -> ChatTemplate:
    knows_chatml = backend.token_to_id("<|im_start|>") is not None and backend.token_to_id("<|im_end|>") is not None
    kind, source = ("ChatML", CHATML_TEMPLATE) if knows_chatml else ('plain "User: / Assistant:"', PLAIN_TEMPLATE)
    log.warning("model %s has no chat template; using groat's %s template for chat turns", model_name, kind)
    return ChatTemplate(source, "groat's default")


def _bos_token_ids(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> list[int]:
    """tokenizer_config.json's add_bos_token where it is given, else what tokenizer.json puts before a text."""
    stated: Any = config.get("add_bos_token")
    if stated is False:
        return []
    bos = backend.token_to_id(special_tokens.get("bos_token", ""))
    if stated is True and bos is not None:
        return [bos]
    return backend.encode("", add_special_tokens=True).ids[:1] if _puts_token_first(backend) else []


def _puts_token_first(backend: tokenizers.Tokenizer) -> bool:
    plain = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    return len(whole) > len(plain) and whole[1 : 1 + len(plain)] == plain


def _stop_token_ids(
    folder: Path, backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str], template: ChatTemplate
) -> set[int]:
    vocab = backend.get_vocab()
    stops = {vocab[token] for token in _TURN_ENDS if token in vocab and token in template.source}
    if special_tokens.get("eos_token") in vocab:
        stops.add(vocab[special_tokens["eos_token"]])
    for name in ("generation_config.json", "config.json"):
        stops |= _eos_in(folder / name, max(vocab.values()))
    return stops


def _end_token_id(
    backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str], stop_token_ids: frozenset[int]
) -> int | None:
    """The stop token to write where a template writes none: eos where it is named."""
    eos = backend.token_to_id(special_tokens.get("eos_token", ""))
    return min(stop_token_ids, default=None) if eos is None else eos


def _eos_in(path: Path, largest_id: int) -> set[int]:
    value: Any = read_json_object_if_there(path).get("eos_token_id")
    ids = cast(list[Any], value) if isinstance(value, list) else [] if value is None else [value]
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id <= largest_id:
            raise UserError(f"{path}: eos_token_id {token_id!r} is not a token of this model. Get the file again.")
    return set(ids)
