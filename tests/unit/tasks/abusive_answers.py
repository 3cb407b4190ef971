"""Answers that a model should not write and some will: made up from a seed, to be survived."""

from __future__ import annotations

import random
from collections.abc import Callable

MARK = "groat-was-here"


def abusive_answers(number: int, seed: int, folder: str) -> list[str]:
    """Code among them would leave a file called MARK in `folder`."""
    generator = random.Random(seed)
    kinds = [KINDS[place % len(KINDS)] for place in range(number)]
    return [_wrapped(generator, kind(generator, f"{folder}/{MARK}")) for kind in kinds]


def _wrapped(generator: random.Random, piece: str) -> str:
    ways = (
        r"\boxed{%s}",
        "Answer: %s",
        "$%s$",
        "%s",
        "<answer>%s</answer>",
        "<think>%s</think>\\boxed{%s}",
        r"\[%s\]",
        "#### %s",
    )
    way = generator.choice(ways)
    return way.replace("%s", piece)


def _tower(generator: random.Random, _: str) -> str:
    sign = generator.choice(["^", "**"])
    opening, closing = ("{", "}") if sign == "^" else ("(", ")")
    height = generator.choice([2, 3, 4, 10, 200])
    tower = "9"
    for _place in range(height):
        tower = f"{generator.randint(2, 99)}{sign}{opening}{tower}{closing}"
    return generator.choice([tower, f"{sign}".join(["9"] * height), rf"\sqrt{{{tower}}}", rf"\frac{{1}}{{{tower}}}"])


def _huge_number(generator: random.Random, _: str) -> str:
    digits = generator.choice([100, 1000, 100_000, 1_000_000])
    number = "".join(generator.choices("0123456789", k=50)) * (digits // 50)
    return generator.choice(
        [number, f"1e{number[:7]}", f"10^{{{number[:8]}}}", f"0.{number}", f"{number}/{number[::-1]}"]
    )


def _factorial(generator: random.Random, _: str) -> str:
    number = generator.choice([20, 999, 9999, 99999, 10**9])
    return generator.choice(
        [f"{number}!", f"({number}!)!", "9!!!!!!!!", rf"\binom{{{number}}}{{{number // 2}}}", rf"\Gamma({number})"]
    )


def _deep(generator: random.Random, _: str) -> str:
    depth = generator.choice([20, 29, 100, 10_000])
    opening, closing = generator.choice(
        [
            ("(", ")"),
            ("{", "}"),
            (r"\frac{1}{1+", "}"),
            (r"\sqrt{", "}"),
            ("[", "]"),
            (r"\left(", r"\right)"),
            ("\\sin(", ")"),
        ]
    )
    return opening * depth + "x" + closing * depth


def _unbalanced(generator: random.Random, _: str) -> str:
    return "".join(
        generator.choices(
            ["{", "}", r"\boxed{", "(", "$", r"\frac{", "1", "x", r"\]", r"\{"], k=generator.choice([5, 50, 5000])
        )
    )


def _unicode(generator: random.Random, _: str) -> str:
    points = [
        generator.choice([0x660, 0xFF11, 0x1D7D8, 0x2070, 0x200B, 0x202E, 0x1F600, 0xD800, 0x0, 0x300])
        for _ in range(40)
    ]
    return "".join(chr(point + generator.randint(0, 9)) for point in points) * generator.choice([1, 100])


def _code(generator: random.Random, file: str) -> str:
    return generator.choice(
        [
            f"__import__('os').system('touch {file}')",
            f"open('{file}', 'w').write('x')",
            f"exec(\"open('{file}', 'w')\")",
            f"eval(compile(\"open('{file}', 'w')\", 'x', 'eval'))",
            f"[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0](['touch', '{file}'])",
            f"\\input{{|touch {file}}}",
            f"\\write18{{touch {file}}}",
            f"x = lambda: open('{file}', 'w'); x()",
            f"$(touch {file})",
            f"Symbol('x').__reduce__.__globals__['os'].system('touch {file}')",
            f"N(open('{file}','w'))",
        ]
    )


def _hard_algebra(generator: random.Random, _: str) -> str:
    return generator.choice(
        [
            r"\int_0^1 \sin(x^x) e^{x^{x}} dx",
            r"\sum_{n=1}^{\infty} \frac{\sin(n^n)}{n!}",
            r"\prod_{k=1}^{9999} (x+k)",
            "(x+y+z+w+v)^{500}",
            "(x+1)^{999}(x-1)^{999}(x^2+1)^{999}",
            r"\lim_{x \to 0} \frac{\sin(\tan x) - \tan(\sin x)}{x^7}",
            r"\sin^{99}(x)+\cos^{99}(x)+\tan^{99}(x)",
            r"\sqrt{2+\sqrt{3+\sqrt{5+\sqrt{7+\sqrt{11+\sqrt{13}}}}}}",
            r"\begin{pmatrix}" + r"\\".join(["&".join(["x^9"] * 20)] * 20) + r"\end{pmatrix}",
            r"\{" + ",".join(str(place) for place in range(600)) + r"\}",
            r"x \in [1, 2] \cup " * 60 + "[3,4]",
            "1+" * 900 + "1",
            "x<" * 500 + "x",
            "=".join(["x"] * 500),
            r"\log_{2}" * 200 + "x",
        ]
    )


def _megabyte(generator: random.Random, _: str) -> str:
    return (
        generator.choice(["a", "1,", "$", "\\boxed{1}", "Answer: 1\n", " ", "\n", "<answer>1</answer>", "{", "\\"])
        * 2**17
    )


KINDS: list[Callable[[random.Random, str], str]] = [
    _tower,
    _huge_number,
    _factorial,
    _deep,
    _unbalanced,
    _unicode,
    _code,
    _hard_algebra,
    _megabyte,
    _code,
]
