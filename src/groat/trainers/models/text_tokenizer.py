"""A model's tokenizer with transformers' calls, as notebooks use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch

from groat.config.tree import ModelConfig
from groat.model.files import replace_file
from groat.model.locate import model_folder
from groat.model.merged import copy_tokenizer
from groat.model.tokenizer import Tokenizer, read_tokenizer
from groat.trainers.models.encoding import Encoding, encoded
from groat.types import Message, UserError

Conversation = Sequence[Message]


class TextTokenizer:
    """What `from_pretrained` returns beside the model. Training and generating use the same tokenizer behind it.

    Chat templates are rendered as transformers renders them; control tokens written inside of a message stay text.
    """

    def __init__(self, name: str) -> None:
        """`name`: a folder, a .gguf file, a hub id or groat's default model. UserError where it has no tokenizer."""
        self.name_or_path = name
        self.padding_side = "left"
        self._folder = model_folder(name)
        self._tokenizer = read_tokenizer(ModelConfig(name=name), self._folder)
        self._own_template = self._tokenizer.template_source
        special = self._tokenizer.special_tokens
        self.bos_token, self.eos_token = special.get("bos_token"), special.get("eos_token")
        self.unk_token = special.get("unk_token")
        self.pad_token = special.get("pad_token") or self.eos_token

    @property
    def tokenizer(self) -> Tokenizer:
        """groat's own, with the chat template that is set now."""
        return self._tokenizer

    @property
    def chat_template(self) -> str:
        return self._tokenizer.template_source

    @chat_template.setter
    def chat_template(self, source: str) -> None:
        self._tokenizer = self._tokenizer.with_template(source, "tokenizer.chat_template")

    @property
    def new_chat_template(self) -> str | None:
        """What was set in place of the model's own."""
        return None if self.chat_template == self._own_template else self.chat_template

    @property
    def bos_token_id(self) -> int | None:
        return self.convert_tokens_to_ids(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        return self.convert_tokens_to_ids(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        return self.convert_tokens_to_ids(self.pad_token)

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.vocab_size

    def __len__(self) -> int:
        return self._tokenizer.vocab_size

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        return_tensors: str | None = None,
        **options: Any,
    ) -> Encoding:
        """`input_ids` and `attention_mask` of one text or several; one text without return_tensors gives flat lists."""
        _refuse("a tokenizer's call", options, {"truncation": False, "return_attention_mask": True})
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self.encode(one, add_special_tokens=add_special_tokens) for one in texts]
        found = encoded(rows, return_tensors, padding, self.pad_token_id or 0, self.padding_side)
        is_flat = isinstance(text, str) and return_tensors is None
        return Encoding({name: value[0] for name, value in found.items()}) if is_flat else found

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """BOS is put first once, if the model's tokenizer adds one."""
        return self._tokenizer.encode_prompt(text) if add_special_tokens else self._tokenizer.encode(text)

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """Ids are a list, a tensor [tokens], or one id."""
        ids = token_ids.tolist() if isinstance(token_ids, torch.Tensor) else token_ids
        flat = [ids] if isinstance(ids, int) else cast("Sequence[int]", ids)
        return self._tokenizer.decode(flat, skip_special_tokens=skip_special_tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        """Each row of a tensor [batch, tokens] or of a list."""
        return [self.decode(row, skip_special_tokens) for row in sequences]

    def apply_chat_template(
        self,
        conversation: Conversation | Sequence[Conversation],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        padding: bool | str = False,
        return_tensors: str | None = None,
        return_dict: bool = False,
        **options: Any,
    ) -> Any:
        """A text, or its ids: a list or a tensor [1, tokens], or with return_dict what calling the tokenizer gives.

        Several conversations give a list of texts, or ids in rows.
        """
        harmless = {"tools": None, "documents": None, "continue_final_message": False, "truncation": False}
        _refuse("apply_chat_template", options, harmless)
        is_one = not conversation or isinstance(conversation[0], Mapping)
        chats = cast("list[Conversation]", [conversation] if is_one else list(conversation))
        if not tokenize:
            texts = [self._tokenizer.render(chat, add_generation_prompt=add_generation_prompt) for chat in chats]
            return texts[0] if is_one else texts
        rows = [self._tokenizer.encode_chat(chat, add_generation_prompt=add_generation_prompt) for chat in chats]
        found = encoded(rows, return_tensors, padding, self.pad_token_id or 0, self.padding_side)
        if is_one and return_tensors is None:
            found = Encoding({name: value[0] for name, value in found.items()})
        return found if return_dict else found.input_ids

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of one token, or a list of those of several; None for what is no token."""
        if tokens is None or isinstance(tokens, str):
            return None if tokens is None else self._tokenizer.token_id(tokens)
        return [self._tokenizer.token_id(token) for token in tokens]

    def save_pretrained(self, save_directory: str | PathLike[str], **_: Any) -> None:
        """Copy the tokenizer's files, and the chat template if another one was set."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        copy_tokenizer(self._folder, folder)
        if (template := self.new_chat_template) is not None:
            replace_file(folder / "chat_template.jinja", lambda path: path.write_text(template, encoding="utf-8"))


def _refuse(what: str, options: Mapping[str, Any], harmless: Mapping[str, Any]) -> None:
    """UserError for an option that asks for something."""
    for name, value in options.items():
        if name not in harmless or value not in (harmless[name], None):
            raise UserError(f"{what} was given {name}={value!r}, which groat's tokenizer does not have: leave it out")
