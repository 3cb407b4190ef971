import pytest

from groat.tasks.sandbox import Sandbox, SandboxError


@pytest.fixture(scope="module")
def sandbox():
    """By whatever builds it here."""
    sandbox = Sandbox()
    try:
        sandbox.check()
    except SandboxError as error:
        pytest.skip(f"no isolation to be had here: {error}")
    yield sandbox
    sandbox.close()
