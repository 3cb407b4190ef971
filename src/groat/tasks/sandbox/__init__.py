"""Running programs that a model wrote, where they can do no harm."""

from groat.tasks.sandbox.limits import Limits
from groat.tasks.sandbox.sandbox import Ending, Sandbox, SandboxError

__all__ = ["Ending", "Limits", "Sandbox", "SandboxError"]
