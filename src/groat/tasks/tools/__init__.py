"""Tools that a model may use while it answers: a calculator, Python in the sandbox, functions of the user's own."""

from groat.tasks.tools.function_tool import function_tool
from groat.tasks.tools.tool import Tool, ToolError
from groat.tasks.tools.tool_environments import ToolEnvironments

__all__ = ["Tool", "ToolEnvironments", "ToolError", "function_tool"]
