"""Calls made in processes of their own: limited in time and memory, killed and replaced when they overrun."""

from groat.tasks.isolation.worker import Launcher, Limits, Target, Worker, WorkerError
from groat.tasks.isolation.worker_pool import WorkerPool

__all__ = ["Launcher", "Limits", "Target", "Worker", "WorkerError", "WorkerPool"]
