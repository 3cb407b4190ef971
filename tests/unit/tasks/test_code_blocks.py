import pytest

from groat.tasks.code_blocks import READ_CHARACTERS, last_code_block


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("first\n```\na\n```\nthen\n```py\nb\nc\n```\ndone", "b\nc"),
        ("  ```python\n  x = 1\n  ```", "  x = 1"),
        ("```python\nx = 1", "x = 1"),  # cut off by the length limit
        ("```\na\n```\n```\nb", "a"),
        ("no code", None),
        ("", None),
        ("``` inline ```", ""),
        ("x = '```'", None),
    ],
)
def test_last_block(text: str, block: str | None):
    assert last_code_block(text) == block


def test_a_huge_completion_is_read_from_its_end():
    assert last_code_block("```\na\n```\n" + "x" * READ_CHARACTERS) is None
    assert last_code_block("x" * 10_000_000 + "\n```\na\n```") == "a"
    assert last_code_block("```\n" * 1_000_000) == ""
