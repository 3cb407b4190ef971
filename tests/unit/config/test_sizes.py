import pytest

from groat.config.sizes import parse_size
from groat.config.tree import MemoryConfig


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("3GiB", 3 * 1024**3),
        ("3GB", 3_000_000_000),
        ("2500MB", 2_500_000_000),
        ("1.5 MiB", 1_572_864),
        (" 7gib ", 7 * 1024**3),
        ("1TiB", 1024**4),
    ],
)
def test_size_with_unit_is_that_many_bytes(text: str, num_bytes: int):
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["3", "3000000000", "0.5"])
def test_bare_number_is_refused_with_a_hint(text: str):
    with pytest.raises(ValueError, match=r"has no unit: write it like 3GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "-3GiB", "3e9GB", "1,5GiB", "3G", "3 gigs", "0GB", "nanGB", "9" * 5000 + "GB", "٣GiB", "3GiB\n4GiB"],
)
def test_nonsense_is_refused(text: str):
    with pytest.raises(ValueError, match="write it like 3GiB"):
        parse_size(text)


def test_budget_is_checked_when_the_config_is_made():
    assert MemoryConfig(budget="3GiB").budget == "3GiB"
    with pytest.raises(ValueError, match=r"memory\.budget: '3' has no unit"):
        MemoryConfig(budget="3")
