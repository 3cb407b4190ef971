"""Python as a tool: a program that the model wrote runs in the sandbox, and the model reads what it printed."""

from __future__ import annotations

from groat.tasks.code_blocks import last_code_block
from groat.tasks.sandbox import Limits, Sandbox, SandboxError
from groat.tasks.sandbox.programs import ScriptRun, run_script
from groat.tasks.tools.tool import Tool, ToolError

_PRINTED_BYTES = 64 * 1024


def python_tool(seconds: float = 4.0) -> Tool:
    """SandboxError where programs cannot be run safely. Nothing is kept from call to call."""
    sandbox = Sandbox()
    sandbox.check()
    limits = Limits(seconds=seconds, file_bytes=_PRINTED_BYTES)

    def run(code: str) -> str:
        return _told(_ran(sandbox, last_code_block(code) or code, limits), seconds)

    return Tool(
        name="python",
        description="Runs a Python program and gives what it printed. Nothing is kept from one call to the next.",
        parameters={
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The program; it must print what is wanted."}},
            "required": ["code"],
        },
        run=run,
        close=sandbox.close,
    )


def _ran(sandbox: Sandbox, source: str, limits: Limits) -> ScriptRun:
    try:
        return run_script(sandbox, source, "", limits)
    except SandboxError:  # this program's doing, or that of one beside it
        sandbox.check()  # raises where the machine is to blame
        raise ToolError("the sandbox broke while the program ran") from None


def _told(run: ScriptRun, seconds: float) -> str:
    printed = run.stdout.decode(errors="replace").rstrip()
    if run.ending.was_late:
        raise ToolError(f"the program did not end within {seconds:g} s")
    if len(run.stdout) >= _PRINTED_BYTES:
        return printed  # it was stopped there
    if run.last_error_line or run.ending.exit_code < 0:
        ending = run.last_error_line or f"ended by signal {-run.ending.exit_code}"
        raise ToolError(f"{printed[-200:]}\n{ending}".strip())
    return printed or "(nothing was printed)"
