"""JSON of a given shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groat.tasks.json_schemas import json_schema
from groat.types import UserError

pytest.importorskip("jsonschema")

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["answer"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def reward():
    reward = json_schema(schema=json.dumps(SCHEMA), num_workers=1, timeout_seconds=20)
    yield reward
    reward.close()


@pytest.mark.parametrize(
    ("text", "score", "why"),
    [
        ('{"answer": 4}', 1.0, "is as the schema says"),
        (' {"answer": 4, "tags": ["a"]}\n', 1.0, "is as the schema says"),
        ('```json\n{"answer": 4}\n```', 1.0, "is as the schema says"),
        ('<think>{"answer": "?"}</think>{"answer": 4}', 1.0, "is as the schema says"),
        ('{"answer": 4.5}', 0.0, "$.answer: 4.5 is not of type 'integer'"),
        ('{"answer": 4, "tags": [1]}', 0.0, "$.tags[0]: 1 is not of type 'string'"),
        ("{}", 0.0, "$: 'answer' is a required property"),
        ("4", 0.0, "$: 4 is not of type 'object'"),
        ('So: {"answer": 4}', 0.0, "is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"answer": NaN}', 0.0, "is not JSON: NaN is no JSON"),
        ("", 0.0, "is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[" * 50_000, 0.0, None),
        ("[" * 200_000, 0.0, "longer than 100000 characters"),
    ],
)
def test_a_text_is_json_of_the_shape_or_the_reason_says_what_is_not(reward, text: str, score: float, why: str | None):
    [value] = reward([text])
    assert value == score
    assert why is None or value.why == why


def test_a_tag_can_hold_the_json():
    reward = json_schema(schema='{"type": "integer"}', tag="answer", num_workers=1, timeout_seconds=20)
    assert reward(["Well. <answer>4</answer>", "4"]) == [1.0, 0.0]
    reward.close()


def test_the_schema_can_be_a_file_and_its_patterns_are_bounded(tmp_path: Path):
    file = tmp_path / "schema.json"
    file.write_text('{"type": "string", "pattern": "^(a+)+$"}')
    reward = json_schema(schema=str(file), num_workers=1, timeout_seconds=1.0)
    values = reward(['"aaa"', json.dumps("a" * 60 + "!")])
    reward.close()
    assert values == [1.0, 0.0]
    assert values[1].why == "not decided within 1 s"


def test_references_are_not_fetched():
    reward = json_schema(schema='{"$ref": "http://127.0.0.1:9/x.json"}', num_workers=1, timeout_seconds=20)
    [value] = reward(["4"])
    reward.close()
    assert value == 0.0
    assert "Unresolvable" in value.why


@pytest.mark.parametrize(
    ("schema", "message"),
    [("{", "is not JSON"), ('{"type": "number?"}', "no JSON Schema"), ("none.json", "cannot read")],
)
def test_what_is_no_schema_is_said_before_the_run(schema: str, message: str):
    with pytest.raises(UserError, match=message):
        json_schema(schema=schema)
