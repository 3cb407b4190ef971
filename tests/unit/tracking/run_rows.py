"""Rows that tests record."""

from groat.tracking.rows import AnswerRow, Evaluation, RolloutRow


def rollout(group: int = 0, completion: int = 0, text: str = "7", reward: float = 1.0) -> RolloutRow:
    return RolloutRow(
        group_index=group,
        completion_index=completion,
        problem_id=f"p{group}",
        prompt_text="3 + 4?",
        text=text,
        finish_reason="stop",
        num_tokens=3,
        reward=reward,
        advantage=0.5,
        policy_version=2,
        parts={"correct_answer": 1.0, "format": None},
        reasons={"format": "as asked"},
    )


def answer(problem: str, text: str, correct: bool) -> AnswerRow:
    return AnswerRow(problem_id=problem, kind="greedy", prompt_text="3 + 4?", text=text, correct=correct, reference="7")


HALF_RIGHT = {"greedy": Evaluation(0.5, 0.4, 0.6, 100)}
MOSTLY_RIGHT = {"greedy": Evaluation(0.75, 0.65, 0.85, 100)}
