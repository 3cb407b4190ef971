"""Where no isolation can be had, nothing is run, and the user is told."""

import shutil
import subprocess
import sys
from pathlib import Path

import groat

SOURCE = Path(groat.__file__).parents[1]

# A process from which no namespace can be made, as in a container with the usual seccomp profile and no capabilities.
NO_ISOLATION = f"""
import sys
sys.path.insert(0, {str(SOURCE / "groat" / "tasks" / "sandbox" / "inside")!r})
import kernel
from seccomp import seccomp_filter
"""
SHUT = "kernel.drop_capabilities(); kernel.filter_calls(seccomp_filter())\n"


def run_without_isolation(script: str) -> subprocess.CompletedProcess[str]:
    """`script` calls shut() when it has imported what it needs."""
    whole = f"{NO_ISOLATION}\ndef shut():\n    {SHUT}\n{script}"
    return subprocess.run(
        [sys.executable, "-c", whole], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=120
    )


def test_a_machine_without_isolation_is_refused_with_what_to_do():
    script = """
from groat.tasks.sandbox import Sandbox, SandboxError
shut()
try:
    Sandbox().check()
except SandboxError as error:
    print(error)
"""
    told = run_without_isolation(script).stdout
    assert told.startswith("programs that a model wrote cannot be run safely here, so they are not run at all (")
    assert "namespaces: [Errno 1] unshare: Operation not permitted" in told
    assert ("bubblewrap: " in told) == (shutil.which("bwrap") is not None)
    assert "sysctl user.max_user_namespaces" in told


def test_the_reward_is_refused_before_the_first_step(tmp_path: Path):
    script = f"""
from groat.tasks import load_reward
from groat.tasks.sandbox import SandboxError
shut()
try:
    reward = load_reward("code_tests")
    reward(["```\\nopen({str(tmp_path / "ran")!r}, 'w')\\n```"], tests=[["assert True"]])
except SandboxError as error:
    print("refused", error)
"""
    assert run_without_isolation(script).stdout.startswith("refused programs that a model wrote cannot be run safely")
    assert not (tmp_path / "ran").exists()


def test_a_limit_that_is_no_limit_is_refused():
    script = """
from groat.tasks.sandbox import Limits
for name in ("seconds", "memory_bytes", "processes"):
    try:
        Limits(**{name: 0})
    except ValueError as error:
        print(error)
"""
    assert run_without_isolation(script).stdout.splitlines() == [
        "sandbox limit seconds must be above 0, got 0",
        "sandbox limit memory_bytes must be above 0, got 0",
        "sandbox limit processes must be above 0, got 0",
    ]


def test_a_process_that_is_not_confined_is_found_out():
    """What the box asks of a trial process before it serves: asked of this one, nearly all is wrong."""
    script = """
import confinement
print(confinement.weaknesses())
"""
    [told] = run_without_isolation(script).stdout.splitlines()
    for weakness in ("it is not process 1", "its calls are not filtered", "it sees /proc", "it can open a socket"):
        assert weakness in told
