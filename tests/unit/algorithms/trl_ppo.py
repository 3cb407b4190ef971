"""TRL's own PPOTrainer, as far as its loop goes: given what its models would have said, and watched at backward.

Needs `pip install trl==1.12.0`, the last version that has it; the tests that use it are skipped without.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor

_PAD = 10**6


@dataclass(frozen=True, kw_only=True)
class Models:
    """What the models say about B completions of at most L tokens; a query is one token, the completion's row."""

    tokens_BL: Tensor
    lengths_B: Tensor
    scores_B: Tensor
    old_logits_BLV: Tensor
    reference_logits_BLV: Tensor
    logits_BLV: Tensor
    """Of the policy in every update, a leaf."""
    old_values_BL: Tensor
    values_BL: Tensor
    """In every update, a leaf."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One of TRL's updates: which completions it learned from, its loss, and the gradients."""

    rows: list[int]
    loss: float
    logits_grad_BLV: Tensor
    values_grad_BL: Tensor


def updates_of_trl(options: Mapping[str, Any], models: Models) -> list[Seen]:
    """What `PPOTrainer.train` does with one batch."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    seen: list[Seen] = []
    rows: list[int] = []

    def backward(loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, (models.logits_BLV, models.values_BL))
        seen.append(Seen(rows=list(rows), loss=loss.item(), logits_grad_BLV=gradients[0], values_grad_BL=gradients[1]))

    def forward(model: Any, query_responses: Tensor, pad: int) -> Any:
        chosen = query_responses[:, 0]
        if model == "reference":
            return SimpleNamespace(logits=_one_behind(models.reference_logits_BLV[chosen]))
        rows[:] = chosen.tolist()
        return (
            SimpleNamespace(logits=_one_behind(models.logits_BLV[chosen])),
            _one_behind(models.values_BL[chosen])[:, :, None],
        )

    def get_reward(model: Any, query_responses: Tensor, *_: Any) -> tuple[Any, Any, Any]:
        chosen = query_responses[:, 0]
        return _one_behind(models.old_values_BL[chosen])[:, :, None], models.scores_B[chosen].clone(), None

    args = PPOConfig(
        output_dir="unused", use_cpu=True, bf16=False, temperature=1.0, num_sample_generations=0, **options
    )
    trainer = object.__new__(PPOTrainer)
    count, length = models.tokens_BL.shape
    for name in ("batch_size", "local_batch_size", "total_episodes"):
        setattr(args, name, count)
    args.local_mini_batch_size = args.per_device_train_batch_size = count // args.num_mini_batches
    args.num_total_batches = 1
    queries_B1 = torch.arange(count)[:, None]
    responses_BL = models.tokens_BL.masked_fill(torch.arange(length) >= models.lengths_B[:, None], _PAD)
    trainer.__dict__ |= {
        "args": args,
        "accelerator": _accelerator(backward),
        "model": MagicMock(policy="policy", value_model="value"),
        "ref_model": "reference",
        "reward_model": "reward",
        "processing_class": SimpleNamespace(pad_token_id=_PAD, eos_token_id=_PAD),
        "dataloader": [{"input_ids": queries_B1}],
        "optimizer": MagicMock(),
        "lr_scheduler": MagicMock(get_last_lr=lambda: [0.0]),
        "callback_handler": MagicMock(),
        "control": SimpleNamespace(should_save=False),
        "state": SimpleNamespace(),
        "is_deepspeed_enabled": False,
        "stop_token_id": None,
        "train_dataset_len": count,
        "log": lambda _: None,
    }
    trainer.callback_handler.on_train_begin.return_value = trainer.control
    trainer.callback_handler.on_step_end.return_value = trainer.control
    trainer.callback_handler.on_train_end.return_value = trainer.control
    generated = (torch.cat([queries_B1, responses_BL], 1), models.old_logits_BLV)
    # A token behind the end has whatever log-prob; TRL masks it.
    stubs = {
        "batch_generation": lambda *_: generated,
        "forward": forward,
        "get_reward": get_reward,
        "unwrap_model_for_generation": lambda *_, **__: nullcontext(trainer.model),
        "selective_log_softmax": _chosen_logprobs,
    }
    with _patched("trl.experimental.ppo.ppo_trainer", stubs):
        trainer.train()
    return seen


def _chosen_logprobs(logits_BLV: Tensor, tokens_BL: Tensor) -> Tensor:
    """TRL's cannot take log-probs of padding, which a model would have an embedding for."""
    inside_BL = tokens_BL.masked_fill(tokens_BL == _PAD, 0)
    return logits_BLV.log_softmax(-1).gather(-1, inside_BL[..., None]).squeeze(-1)


def _one_behind(values_BLX: Tensor) -> Tensor:
    """As a model gives them for query and completion: nobody looks at what is behind the last token."""
    return torch.cat([values_BLX, torch.zeros_like(values_BLX[:, :1])], 1)


def _accelerator(backward: Any) -> SimpleNamespace:
    return SimpleNamespace(
        device=torch.device("cpu"),
        print=lambda *_: None,
        unwrap_model=lambda model: model,
        accumulate=lambda _: nullcontext(),
        backward=backward,
        gather_for_metrics=lambda tensor: tensor,
    )


@contextmanager
def _patched(module: str, stubs: Mapping[str, Any]) -> Any:
    patches = [patch(f"{module}.{name}", stub) for name, stub in stubs.items()]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
