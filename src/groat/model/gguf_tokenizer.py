"""The tokenizer inside a GGUF file becomes tokenizer.json: byte-level BPE, split as llama.cpp and the original split.

Not transformers' reading of a GGUF, which (5.x) splits SmolLM's text like GPT-2's: other ids for spaces before digits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from groat.model.gguf_reader import GgufFile
from groat.types import UserError

log = logging.getLogger("groat")

_CONTROL, _USER_DEFINED = 3, 4
"""Numbers in tokenizer.ggml.token_type."""
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_apart() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _by_pattern(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_SPLITS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "default": _gpt2,
    "gpt-2": _gpt2,
    "gpt2": _gpt2,
    "smollm": _digits_apart,
    "starcoder": _digits_apart,
    "llama-bpe": lambda: _by_pattern(_LLAMA3_SPLIT),
    "llama3": lambda: _by_pattern(_LLAMA3_SPLIT),
    "llama-v3": lambda: _by_pattern(_LLAMA3_SPLIT),
    "qwen2": lambda: _by_pattern(_QWEN2_SPLIT),
    "deepseek-r1-qwen": lambda: _by_pattern(_QWEN2_SPLIT),
}
"""How text is cut before merging, by tokenizer.ggml.pre."""
_LLAMA3_KINDS = {"llama-bpe", "llama3", "llama-v3"}
_NORMALIZED_KINDS = {"qwen2", "deepseek-r1-qwen"}


def tokenizer_from_gguf(gguf: GgufFile) -> Tokenizer:
    """The tokenizer with the file's control tokens as special tokens."""
    tokens, kind = _tokens(gguf), _split_kind(gguf)
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise UserError(f"{gguf.path}: {len(tokens) - len(vocab)} tokens occur twice in its vocabulary. Get it again.")
    try:
        model = BPE(vocab=vocab, merges=_merges(gguf), ignore_merges=kind in _LLAMA3_KINDS)
        tokenizer = Tokenizer(model)
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{gguf.path}: its vocabulary and merges do not fit ({error}). Get the file again.") from error
    tokenizer.pre_tokenizer = _SPLITS[kind]()
    tokenizer.decoder = decoders.ByteLevel()
    if kind in _NORMALIZED_KINDS:
        tokenizer.normalizer = normalizers.NFC()
    _add_marked_tokens(gguf, tokenizer, tokens)
    if _adds_bos(gguf) and (bos := _token(gguf, "bos")) is not None:
        pairs = [(bos, vocab[bos])]
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", pairs)
    return tokenizer


def tokenizer_config_from_gguf(gguf: GgufFile) -> dict[str, Any]:
    """tokenizer_config.json: the special tokens by name, and the chat template."""
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    config: dict[str, Any] = {name: _token(gguf, key) for name, key in keys.items()}
    config = {name: token for name, token in config.items() if token is not None}
    config["add_bos_token"] = _adds_bos(gguf)
    template: Any = gguf.metadata.get("tokenizer.chat_template")
    if template is not None:
        if not isinstance(template, str):
            raise UserError(f"{gguf.path}: tokenizer.chat_template is not text. Get the file again.")
        config["chat_template"] = template
    return config


def eos_token_ids(gguf: GgufFile) -> list[int]:
    """The tokens that end an answer: end of sequence and end of turn."""
    num_tokens = len(_tokens(gguf))
    ids = {gguf.metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot")} - {None}
    for token_id in ids:
        if not isinstance(token_id, int) or not 0 <= token_id < num_tokens:
            raise UserError(f"{gguf.path}: its end token {token_id!r} is not in the vocabulary. Get the file again.")
    return sorted(cast(set[int], ids))


def _tokens(gguf: GgufFile) -> list[str]:
    model: Any = gguf.metadata.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise UserError(
            f"{gguf.path}: its tokenizer is of the kind {model!r}; groat reads gpt2 (byte-level BPE) from GGUF files. "
            "Use the Hugging Face folder of this model."
        )
    return _texts(gguf, "tokenizer.ggml.tokens")


def _split_kind(gguf: GgufFile) -> str:
    kind: Any = gguf.metadata.get("tokenizer.ggml.pre", "default")
    if kind not in _SPLITS:
        raise UserError(
            f"{gguf.path}: tokenizer.ggml.pre is {kind!r}; groat knows {', '.join(_SPLITS)}. Use the Hugging Face "
            "folder of this model."
        )
    if kind == "default":
        log.warning("%s does not say how its tokenizer splits text; groat splits like GPT-2", gguf.path)
    return kind


def _merges(gguf: GgufFile) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for merge in _texts(gguf, "tokenizer.ggml.merges"):
        left, space, right = merge.partition(" ")
        if not (left and space and right):
            raise UserError(f"{gguf.path}: the merge {merge[:40]!r} is not two tokens. Get the file again.")
        pairs.append((left, right))
    return pairs


def _add_marked_tokens(gguf: GgufFile, tokenizer: Tokenizer, tokens: list[str]) -> None:
    kinds: Any = gguf.metadata.get("tokenizer.ggml.token_type", [])
    if not isinstance(kinds, list) or len(cast(list[Any], kinds)) not in (0, len(tokens)):
        raise UserError(f"{gguf.path}: tokenizer.ggml.token_type does not fit its tokens. Get the file again.")
    marked = [
        AddedToken(token, normalized=False, special=kind == _CONTROL)
        for token, kind in zip(tokens, cast(list[Any], kinds), strict=False)
        if kind in (_CONTROL, _USER_DEFINED) and token
    ]
    # One call keeps the order; tokenizers tells special from plain by the AddedToken itself.
    tokenizer.add_tokens(marked)


def _adds_bos(gguf: GgufFile) -> bool:
    """llama.cpp's rule: what the file says, else yes for Llama 3 and no for other byte-level vocabularies."""
    stated: Any = gguf.metadata.get("tokenizer.ggml.add_bos_token")
    return stated if isinstance(stated, bool) else _split_kind(gguf) in _LLAMA3_KINDS


def _token(gguf: GgufFile, key: str) -> str | None:
    token_id: Any = gguf.metadata.get(f"tokenizer.ggml.{key}_token_id")
    tokens = _tokens(gguf)
    return tokens[token_id] if isinstance(token_id, int) and 0 <= token_id < len(tokens) else None


def _texts(gguf: GgufFile, key: str) -> list[str]:
    value: Any = gguf.metadata.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in cast(list[Any], value)):
        raise UserError(f"{gguf.path} has no {key}. The file is damaged or holds no tokenizer.")
    return cast(list[str], value)
