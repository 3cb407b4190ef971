"""Stand-ins for tests, yours and ours: a sampler that plays prepared answers, a tiny model, a task it can learn."""

from groat.testing.scripted_sampler import SamplerCall, ScriptedSampler
from groat.testing.tiny_model import tiny_model
from groat.testing.toy_dialogue import toy_dialogue_task
from groat.testing.toy_task import toy_rows, toy_task, vowel_share

__all__ = ["SamplerCall", "ScriptedSampler", "tiny_model", "toy_dialogue_task", "toy_rows", "toy_task", "vowel_share"]
