"""What the machine can do at best, measured: bytes read and operations of matrix products a second.

As a program it prints them in a line of JSON: `python -m benchmarks.rates [--small]`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.spread import five_digits
from groat.types import Compute

if TYPE_CHECKING:
    import torch

    from groat.kernels.matrix import Matrix

_BUFFERS = tuple(mib * 2**20 for mib in (32, 64, 96, 128, 192, 256, 512, 1536))
"""From what may lie in a cache to what cannot, whatever cache a virtual machine is told it has."""
_SMALL_BUFFERS = (2**20,)
_SHAPES = ((1536, 576), (2048, 2048), (2048, 4096))
"""Rows and columns of matrices."""
_SMALL_SHAPES = ((128, 64),)
_NUM_ROWS = (512, 2048)
"""Of what is multiplied with them."""
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The best of several tries, all of the threads together."""

    reading: tuple[tuple[int, float], ...]
    """Bytes of a buffer that is read again and again, and bytes read in a second; ascending."""
    products: Mapping[Compute, float]
    """Operations a second, by what products are computed in; a multiplication and an addition are two."""

    def bytes_per_second(self, num_bytes: float) -> float:
        """Of reading so many: measured on the next larger buffer, which no cache holds any better."""
        return next((rate for size, rate in self.reading if size >= num_bytes), self.reading[-1][1])

    def to_json(self) -> dict[str, Any]:
        return {
            "reading": [[size, five_digits(rate)] for size, rate in self.reading],
            "products": {kind: five_digits(rate) for kind, rate in self.products.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rates:
        return cls(reading=tuple((int(size), float(rate)) for size, rate in data["reading"]), products=data["products"])


def best_of(measured: Sequence[Rates]) -> Rates:
    """What the machine can do: other processes, and neighbours of a virtual machine, only ever take from it."""
    pairs = sorted(pair for rates in measured for pair in rates.reading)
    kinds = measured[0].products
    return Rates(
        reading=tuple(dict(pairs).items()),  # of each size the last, which is the fastest
        products={kind: max(rates.products[kind] for rates in measured) for kind in kinds},
    )


def measured_rates(*, small: bool = False) -> Rates:
    """Takes some ten seconds and up to 1.5 GiB, which are freed again."""
    from groat.kernels.native import has_int8_kernels
    from groat.memory.measure import available_bytes

    sizes = [size for size in (_SMALL_BUFFERS if small else _BUFFERS) if size <= available_bytes() / 2]
    kinds: tuple[Compute, ...] = ("f32", "int8") if has_int8_kernels() else ("f32",)
    return Rates(
        reading=tuple((size, _reading_rate(size)) for size in sizes),
        products={kind: max(_product_rates(kind, _SMALL_SHAPES if small else _SHAPES)) for kind in kinds},
    )


def _reading_rate(num_bytes: int) -> float:
    """By torch's sum or its dot product with itself, whichever reads faster."""
    import torch

    buffer = torch.ones(num_bytes // 4)
    return num_bytes / min(best_seconds(buffer.sum), best_seconds(lambda: torch.dot(buffer, buffer)))


def _product_rates(kind: Compute, shapes: tuple[tuple[int, int], ...]) -> Iterator[float]:
    import torch

    from groat.kernels.ops import product

    for num_out, num_in in shapes:
        for weight_NK in _matrices(kind, torch.randn(num_out, num_in)):
            for num_rows in _NUM_ROWS:
                input_TK, output_TN = torch.randn(num_rows, num_in), torch.empty(num_rows, num_out)
                seconds = best_seconds(lambda x=input_TK, w=weight_NK, out=output_TN: product(x, w, out=out))
                yield 2 * num_rows * num_out * num_in / seconds


def _matrices(kind: Compute, weight_NK: torch.Tensor) -> Iterator[Matrix]:
    """The matrix in each form whose products are computed in `kind`."""
    from groat.kernels.matrix import computed_in, stored

    if kind == "int8":
        yield computed_in(stored(weight_NK, "int8"), "int8")
        return
    yield stored(weight_NK, "f32")
    yield weight_NK


def best_seconds(work: Callable[[], object]) -> float:
    """Of several tries, the first of which is not counted."""
    work()
    return min(_seconds(work) for _ in range(_TRIES))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rates", description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a trial of this program")
    print(json.dumps(measured_rates(small=parser.parse_args().small).to_json()))


if __name__ == "__main__":
    main()
