import math
import random

import pytest

from groat.tasks.sandbox.inside.plain_data import MOST_LEVELS, NotPlainError, decode, encode, same

VALUES = [
    None, True, 0, -7, 2**53, -(2**200), 0.1, -0.0, math.inf, "text", "\ud800\x00", [], [1, [2, "x"]], {1, 2}, set(),
    {"a": 1}, {}, {(1, 2): {"int": 3}}, {"set": [1]}, b"\x00\xff", 1 + 2j,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_is_written_is_read_again(value: object):
    read = decode(encode(value))
    assert read == value
    assert type(read) is type(value)


def test_nan_and_tuples_come_back_as_what_is_compared_alike():
    assert math.isnan(decode(encode(math.nan)))
    assert decode(encode((1, (2,)))) == [1, [2]]


@pytest.mark.parametrize("value", [object(), print, int, ..., range(3), [lambda: 1], {1: object()}])
def test_other_things_are_not_plain(value: object):
    with pytest.raises(NotPlainError, match="not plain data"):
        encode(value)


def test_subclasses_cross_as_what_they_are_made_of():
    class Loud(list):
        def __eq__(self, other: object) -> bool:
            return True

    assert type(decode(encode(Loud([1])))) is list
    assert not same(decode(encode(Loud([1]))), [2])


def test_depth_has_an_end_on_both_sides():
    deep: list = []
    for _ in range(MOST_LEVELS):
        deep = [deep]
    with pytest.raises(NotPlainError, match="too deeply"):
        encode(deep)
    with pytest.raises(NotPlainError):
        decode("[" * 100_000)
    with pytest.raises(NotPlainError):
        decode("[" * 1000 + "]" * 1000)


def test_random_text_is_read_or_refused():
    """2000 mutations of well-formed texts: nothing but a value or NotPlainError comes out."""
    generator = random.Random(7)
    alphabet = '[]{}":,0123456789.eE-+ntfalsurdictbyepox\\u'
    num_refused = 0
    for _ in range(2000):
        text = list(encode(generator.choice(VALUES)))
        for _ in range(generator.randint(1, 3)):
            text.insert(generator.randint(0, len(text)), generator.choice(alphabet))
        try:
            decode("".join(text))
        except NotPlainError:
            num_refused += 1
    assert 1000 < num_refused < 2000


@pytest.mark.parametrize(
    ("left", "right", "is_same"),
    [
        (1, 1, True),
        (1, 1.0, True),
        (True, 1, True),  # as in Python
        ("1", 1, False),
        (0.1 + 0.2, 0.3, True),
        (1.0, 1.0001, False),
        (1e-12, 0.0, True),
        (math.nan, math.nan, False),
        (math.inf, math.inf, True),
        (10**400, 1.0, False),
        ([1, 2], (1, 2), True),
        ([1, 2], [1, 2, 3], False),
        ({1, 2}, [1, 2], False),
        ({"a": [1.0]}, {"a": (1 + 1e-9,)}, True),
        ({"a": 1}, {"b": 1}, False),
        (None, False, False),
        (0.0, None, False),
    ],
)
def test_same(left: object, right: object, is_same: bool):
    assert same(left, right) is is_same
    assert same(right, left) is is_same
