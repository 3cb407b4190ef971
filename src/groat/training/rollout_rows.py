"""What a step has drawn, as the run's store keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from groat.tracking.rows import RolloutRow
from groat.training.step import StepResult


def rollout_rows(result: StepResult) -> Sequence[RolloutRow]:
    """One row per completion, with its rewards and its advantage."""
    # Where tokens differ, the largest: some algorithms leave tokens out.
    # Scoring makes new completions, of the same token ids.
    advantages = {id(one.completion.token_ids): max(one.advantages, key=abs) for one in result.credit.samples}
    return [
        RolloutRow(
            group_index=group_index,
            completion_index=index,
            problem_id=group.prompt.problem.id,
            prompt_text=_text(group.prompt.problem.prompt),
            text=completion.text,
            finish_reason=completion.finish_reason,
            num_tokens=len(completion.token_ids),
            reward=reward.total,
            advantage=advantages.get(id(completion.token_ids), 0.0),
            policy_version=completion.policy_version,
            parts=reward.parts,
            reasons=reward.reasons,
            turns=completion.turns,
        )
        for group_index, group in enumerate(result.groups)
        for index, (completion, reward) in enumerate(zip(group.completions, group.rewards, strict=True))
    ]


def _text(prompt: str | Sequence[Mapping[str, str]]) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
