"""What TRL's trainers make of the answers that a tiny model writes: the answers, and the advantages they get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from grpo_examples import a_completion, a_prompt

from groat.testing import tiny_model
from groat.types import Completion, Group, Reward

GROUP_SIZE = 4


def early_letters(completions: list[str], **_: Any) -> list[float]:
    """Small numbers, different for nearly every answer."""
    return [sum(character < "n" for character in text) / 100 for text in completions]


def is_long(completions: list[str], **_: Any) -> list[float | None]:
    """One large number or another; does not apply to answers that begin with a control character."""
    return [None if text[:1] < " " else 3.0 * (len(text) > 7) for text in completions]


def groups_and_advantages(
    trainer_class: type, args: Any, folder: Path, reward_functions: list[Callable[..., Any]], weights: list[float]
) -> tuple[list[Group], list[float]]:
    """Three prompts with four answers each, scored by TRL's trainer; the policy differs from the reference."""
    from datasets import Dataset

    rows = [{"prompt": f"Question {number}:"} for number in range(3)]
    trainer = trainer_class(
        model=str(tiny_model(folder / "model")),
        reward_funcs=reward_functions,
        args=args,
        train_dataset=Dataset.from_list(rows),
    )
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in trainer.model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    trainer.model.train()
    found = trainer._generate_and_score_completions([row for row in rows for _ in range(GROUP_SIZE)])
    completions = _completions(trainer, found)
    texts = trainer.processing_class.batch_decode(found["completion_ids"], skip_special_tokens=True)
    parts = [function(completions=texts) for function in reward_functions]
    rewards = [
        Reward(
            total=sum(weight * (value or 0) for weight, value in zip(weights, values, strict=True)),
            parts={function.__name__: value for function, value in zip(reward_functions, values, strict=True)},
        )
        for values in zip(*parts, strict=True)
    ]
    groups = [
        Group(
            prompt=a_prompt(),
            completions=tuple(completions[start : start + GROUP_SIZE]),
            rewards=tuple(rewards[start : start + GROUP_SIZE]),
        )
        for start in range(0, len(completions), GROUP_SIZE)
    ]
    return groups, found["advantages"].tolist()


def _completions(trainer: Any, found: dict[str, torch.Tensor]) -> list[Completion]:
    ids_BT = torch.cat([found["prompt_ids"], found["completion_ids"]], 1)
    mask_BT = torch.cat([found["prompt_mask"], found["completion_mask"]], 1)
    kept = found["completion_ids"].shape[1]

    def logprobs(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return trainer._get_per_token_logps_and_entropies(model, ids_BT, mask_BT, kept)[0]

    reference_BL = logprobs(trainer.ref_model) if trainer.ref_model is not None else None
    completions: list[Completion] = []
    for row, logprobs_L in enumerate(logprobs(trainer.model)):
        length = int(found["completion_mask"][row].sum())
        completion = a_completion(length, row=row)
        scores = {"policy_logprobs": tuple(logprobs_L[:length].tolist())}
        if reference_BL is not None:
            scores["reference_logprobs"] = tuple(reference_BL[row, :length].tolist())
        completions.append(replace(completion, **scores))
    return completions
