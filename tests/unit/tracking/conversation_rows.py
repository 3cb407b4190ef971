"""A conversation that tests record."""

from groat.types import ToolCall, Turn

_CALL = ToolCall(name="add", arguments={"of": [3, 4], "é": None})
CONVERSATION = (
    Turn(role="assistant", content="call add: 3 4", calls=(_CALL,)),
    Turn(role="tool", content="no\nway", has_failed=True),
    Turn(role="assistant", content="7"),
)
