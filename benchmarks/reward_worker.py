"""groat's own rewards for a peer that has no groat: `python -m benchmarks.reward_worker FOLDER`.

Each line it reads is a JSON object, `problem_ids` and `texts` of completions; each line it prints, the list of their
rewards.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.training_work import TrainingWork
from groat.tasks.rewards import Grader
from groat.tasks.task import build_task
from groat.types import Completion, FinishReason, Group, Problem, Prompt


def rewards_of(grader: Grader, problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
    """Weighted totals, one for each text; as in a step, all are graded in one call."""
    pairs = zip(problems, texts, strict=True)
    groups = [
        Group(prompt=Prompt(problem=problem, token_ids=()), completions=(_said(text),)) for problem, text in pairs
    ]
    return [group.rewards[0].total for group in grader.grade(groups)]


def main() -> None:
    work = TrainingWork.read(Path(sys.argv[1]))
    config = work.config
    grader = Grader(build_task(config.task, config.seed).rewards, config.task.reward_timeout_seconds)
    by_id: Mapping[str, Problem] = {problem.id: problem for problems in work.problems for problem in problems}
    for line in sys.stdin:
        asked = json.loads(line)
        problems = [by_id[problem_id] for problem_id in asked["problem_ids"]]
        print(json.dumps(rewards_of(grader, problems, asked["texts"])), flush=True)
    grader.close()


def _said(text: str) -> Completion:
    return Completion(
        token_ids=(),
        sampler_logprobs=(),
        policy_logprobs=(),
        text=text,
        finish_reason=FinishReason.STOP,
        policy_version=0,
    )


if __name__ == "__main__":
    main()
