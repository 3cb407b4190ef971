"""A model as notebooks hold it: generate with it, give it to a trainer, save what it has become.

It is a handle: the weights are loaded when something is generated, and let go of when training begins, which loads them
itself, so that they are never there twice. After training they are stored as they were trained over.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, Self

import numpy as np
import torch

from groat.config.load import read_yaml
from groat.config.tree import LoraConfig, ModelConfig
from groat.memory.allocator import trim
from groat.model.locate import model_folder, read_spec
from groat.model.lora import Adapter, new_adapter
from groat.model.merged import save_merged
from groat.model.peft_files import load_peft, save_peft
from groat.model.spec import ModelSpec
from groat.tracking.folder import RunFolder
from groat.trainers.models.devices import stays_here
from groat.trainers.models.encoding import TokenIds
from groat.trainers.models.generate_options import sampling_params_of
from groat.trainers.models.ready_model import ReadyModel
from groat.trainers.models.sampling_params import LoRARequest, RequestOutput, SamplingParams
from groat.trainers.models.text_tokenizer import TextTokenizer
from groat.types import Completion, StorageKind, UserError

logger = logging.getLogger("groat")


class LanguageModel:
    """What FastLanguageModel and AutoModelForCausalLM return, with the calls of Unsloth's, PEFT's and transformers'."""

    def __init__(
        self,
        name: str,
        *,
        storage: StorageKind | None = None,
        max_seq_length: int | None = None,
        seed: int = 0,
    ) -> None:
        """Reads nothing yet. `storage` None: fp32. `seed` decides a new adapter's weights and what is drawn."""
        self.name_or_path = name
        self.storage: StorageKind | None = storage
        self.max_seq_length = max_seq_length
        self.lora: LoraConfig | None = None
        self._model_config = ModelConfig(name=name)
        self._seed = seed
        self._chance = np.random.Generator(np.random.Philox(seed))
        self._adapter: Adapter | None = None
        self._run: RunFolder | None = None
        self._loaded: ReadyModel | None = None

    @cached_property
    def folder(self) -> Path:
        """Of the base model's files."""
        return model_folder(self.name_or_path)

    @cached_property
    def spec(self) -> ModelSpec:
        return read_spec(self.folder)

    @cached_property
    def config(self) -> SimpleNamespace:
        """A few things that scripts look at or set; nothing here takes effect."""
        return SimpleNamespace(
            _name_or_path=self.name_or_path,
            vocab_size=self.spec.vocab_size,
            hidden_size=self.spec.hidden_size,
            num_hidden_layers=self.spec.num_layers,
            max_position_embeddings=self.spec.max_context,
            use_cache=True,
        )

    def check(self) -> None:
        """UserError where the name leads to no model that groat knows; reads no weights."""
        assert self.spec.num_layers

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def is_trained(self) -> bool:
        """Whether it has an adapter that is not new: trained by a run, or read from a folder."""
        return self._adapter is not None

    @property
    def holds_weights(self) -> bool:
        """Whether the weights are in memory now."""
        return self._loaded is not None

    def add_lora(self, lora: LoraConfig, seed: int) -> None:
        """Give it a new adapter; UserError where it has one that is trained."""
        if self.is_trained:
            raise UserError(
                f"the model {self.name_or_path} has a trained adapter: to train another one, load the model again"
            )
        self.lora, self._seed = lora, seed

    def use_adapter(self, folder: Path) -> None:
        """Read an adapter in PEFT's format to generate with."""
        self._adapter = load_peft(folder, self.spec)
        self.lora = self._adapter.config

    def use_run(self, run: RunFolder) -> None:
        """From now on this is what the run has trained, its weights stored as the run stored them."""
        self.release()
        self._run, self._model_config = run, read_yaml(run.config_path).model
        self.use_adapter(run.adapter)

    def release(self) -> None:
        """Let go of the weights; the next call that generates loads them again."""
        self._loaded = None
        trim()

    def fast_generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        sampling_params: SamplingParams | None = None,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[RequestOutput]:
        """Completions of texts (BOS is put first once, if the tokenizer does so) or of lists of ids.

        As in Unsloth, the adapter is the one that `lora_request` names: None asks the model without any.
        """
        del use_tqdm
        params = SamplingParams() if sampling_params is None else sampling_params
        given = [prompts] if isinstance(prompts, str) else list(prompts)
        ready = self._ready()
        ids = [ready.tokenizer.encode_prompt(one) if isinstance(one, str) else list(one) for one in given]
        drawn = self._draw(ids, params, None if lora_request is None else lora_request.adapter)
        return [
            RequestOutput(
                request_id=str(place),
                prompt=prompt if isinstance(prompt, str) else None,
                prompt_token_ids=tuple(prompt_ids),
                outputs=ready.outputs(completions, params),
                lora_request=lora_request,
            )
            for place, (prompt, prompt_ids, completions) in enumerate(zip(given, ids, drawn, strict=True))
        ]

    def generate(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        *,
        inputs: Any = None,
        streamer: Any = None,
        **options: Any,
    ) -> torch.Tensor:
        """Prompts and completions [batch x num_return_sequences, tokens], ends filled up with the stop token's pad.

        With the model's adapter, where it is trained. Greedy unless a way of drawing is asked for; a streamer is given
        the tokens at the end, all at once.
        """
        ids_BT = inputs if input_ids is None else input_ids
        rows = [list[int](row) for row in torch.as_tensor(ids_BT).tolist()]
        masks = [[1] * len(row) for row in rows] if attention_mask is None else torch.as_tensor(attention_mask).tolist()
        prompts = [
            [token for token, seen in zip(row, mask, strict=True) if seen]
            for row, mask in zip(rows, masks, strict=True)
        ]
        width = max(map(len, rows))
        params = sampling_params_of(options, width)
        drawn = self._draw(prompts, params, self._adapter)
        pad = options.get("pad_token_id")
        pad = min(self._ready().tokenizer.stop_token_ids, default=0) if pad is None else int(pad)
        whole = [[*row, *completion.token_ids] for row, group in zip(rows, drawn, strict=True) for completion in group]
        if streamer is not None:
            _stream(streamer, rows, whole)
        length = max(map(len, whole))
        filled = torch.tensor([[*row, *[pad] * (length - len(row))] for row in whole])
        return filled.as_subclass(TokenIds)

    def load_lora(self, lora_path: str | PathLike[str], load_tensors: bool = True) -> LoRARequest:
        """An adapter in PEFT's format, for `fast_generate`; training and `generate` do not see it."""
        del load_tensors
        return LoRARequest(lora_name=str(lora_path), adapter=load_peft(Path(lora_path), self.spec))

    def save_lora(self, save_directory: str | PathLike[str]) -> None:
        """Write the adapter in PEFT's format."""
        save_peft(self._own_adapter("save_lora"), self.spec, self.name_or_path, Path(save_directory))

    def save_pretrained(self, save_directory: str | PathLike[str], **_: Any) -> None:
        """Write the adapter in PEFT's format."""
        self.save_lora(save_directory)

    def save_pretrained_merged(
        self,
        save_directory: str | PathLike[str],
        tokenizer: TextTokenizer | None = None,
        save_method: str = "merged_16bit",
    ) -> None:
        """merged_16bit: the model with its adapter added to the weights, in bf16, beside its tokenizer; lora: the
        adapter alone. Weights are the checkpoint's own, whatever they were stored in while training."""
        folder = Path(save_directory)
        if save_method == "lora":
            self.save_lora(folder)
        elif save_method == "merged_16bit":
            save_merged(self._own_adapter("save_pretrained_merged"), self.folder, folder)
        else:
            raise UserError(
                f"save_method is {save_method!r}: groat saves merged_16bit and lora. Weights in 4 bits lose what "
                "is merged into them: save merged_16bit, and load that in 4 bits"
            )
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    def save_pretrained_gguf(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        raise UserError(
            "save_pretrained_gguf: groat does not write GGUF yet. Use save_pretrained_merged, and llama.cpp's "
            "convert_hf_to_gguf.py on that folder"
        )

    def push_to_hub(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        raise UserError(
            "push_to_hub: groat uploads nothing. Use save_pretrained or save_pretrained_merged, and `hf upload` with "
            "that folder"
        )

    push_to_hub_merged = push_to_hub_gguf = push_to_hub

    def to(self, device: Any = None, **_: Any) -> Self:
        """The same: groat computes on the CPU."""
        stays_here(device)
        return self

    def train(self, mode: bool = True) -> Self:
        """The same: nothing here depends on it."""
        del mode
        return self

    def eval(self) -> Self:
        """The same: nothing here depends on it."""
        return self

    def print_trainable_parameters(self) -> None:
        """Log how many numbers the adapter has."""
        count = sum(tensor.numel() for tensor in self._own_adapter("this").named_tensors().values())
        logger.warning("trained parameters: %s, all in the adapter; the base model's weights stay as they are", count)

    def _own_adapter(self, call: str) -> Adapter:
        if self._adapter is not None:
            return self._adapter
        if self.lora is None:
            raise UserError(f"{call} needs an adapter, and this model has none: add one with get_peft_model, or train")
        return new_adapter(self.spec, self.lora, torch.Generator().manual_seed(self._seed))

    def _draw(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, adapter: Adapter | None
    ) -> list[tuple[Completion, ...]]:
        if params.seed is None:
            seeds = self._chance.integers(2**63, size=len(prompts)).tolist()
        else:
            seeds = np.random.SeedSequence(params.seed).generate_state(len(prompts), np.uint64).tolist()
        context = int(min(self.spec.max_context, self.max_seq_length or math.inf))
        return self._ready().draw(prompts, adapter, params, context, seeds)

    def _ready(self) -> ReadyModel:
        if self._loaded is None:
            self._loaded = ReadyModel(self._model_config, self.folder, self.storage, self._run)
        return self._loaded


def _stream(streamer: Any, rows: Sequence[Sequence[int]], whole: Sequence[Sequence[int]]) -> None:
    if len(whole) != 1:
        raise UserError(f"a streamer shows one completion at a time, and {len(whole)} were asked for: leave it out")
    streamer.put(torch.tensor([rows[0]]))
    for token in whole[0][len(rows[0]) :]:
        streamer.put(torch.tensor([token]))
    streamer.end()
