"""Problems, and how answers to them are judged."""

from groat.tasks.explained import Explained
from groat.tasks.reward_loading import load_reward
from groat.tasks.rewards import Grader, RewardError, RewardFunction
from groat.tasks.task import Task, build_task, task_from_rows

__all__ = [
    "Explained",
    "Grader",
    "RewardError",
    "RewardFunction",
    "Task",
    "build_task",
    "load_reward",
    "task_from_rows",
]
