"""The `groat` command: finds the subcommand, and turns what goes wrong into a sentence and an exit code."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from groat.types import UserError

HELP = """\
groat teaches a language model to reason with the memory you have: reinforcement
learning (GRPO) on LoRA adapters over a frozen model. It needs no GPU.

usage: groat COMMAND [...]

  train [RECIPE] [flags]   train; without a recipe, the demo: small model, small sums
  prime [RECIPE] [flags]   only the cold start: learn worked examples
  plan [RECIPE] [flags]    what a run would hold in memory, and what fits a budget
  quantize MODEL           choose 4, 8 or 16 bits for each matrix, and what it costs
  resume RUN               go on with a run that was stopped or killed, bit for bit
  runs [FOLDER]            list runs; `groat runs show RUN` prints what a model wrote
  bench w1                 time and memory of one standard piece of work
  bench quantize           what fewer bits cost, on several texts
  bench memory             planned beside measured memory, on shapes of known models
  doctor                   what groat finds on this machine

examples:
  groat train --max-steps 5 --budget 3GiB
  groat train recipes/arithmetic.yaml --learning-rate 1e-4 --sampling.temperature 0.8

options:
  -h, --help     this text; `groat COMMAND --help` tells more
  --version      groat's version
  --traceback    where an error came from, in full

Exit codes: 0 done, 1 a bug or a failed machine, 2 something to put right in what was
asked, 130 interrupted (ctrl-c).
"""


def main(args: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = sys.argv[1:] if args is None else list(args)
    show_traceback = "--traceback" in args
    try:
        _dispatch([arg for arg in args if arg != "--traceback"])
        sys.stdout.flush()
        return 0
    except UserError as error:
        if show_traceback:
            traceback.print_exc()
        print(_wrapped(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print("\n".join(["", "interrupted", *_notes(interrupt)]), file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; a second complaint when Python flushes at exit helps nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        traceback.print_exc()
        return 1


def _dispatch(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP, end="")
    elif args[0] == "--version":
        print(f"groat {version('groat')}")
    elif args[0] in _COMMANDS:
        _COMMANDS[args[0]](args[1:])
    else:
        near = difflib.get_close_matches(args[0], _COMMANDS, 1)
        meant = f"did you mean `groat {near[0]}`?" if near else f"there are {', '.join(_COMMANDS)}."
        raise UserError(f"groat has no command {args[0]!r}: {meant}")


# Each command is imported when it is asked for, so that --help and --version start at once.


def _train(args: list[str]) -> None:
    from groat.cli.train import train_command

    train_command(args)


def _prime(args: list[str]) -> None:
    from groat.cli.train import prime_command

    prime_command(args)


def _plan(args: list[str]) -> None:
    from groat.cli.plan import plan_command

    plan_command(args)


def _quantize(args: list[str]) -> None:
    from groat.cli.quantize import quantize_command

    quantize_command(args)


def _resume(args: list[str]) -> None:
    from groat.cli.resume import resume_command

    resume_command(args)


def _runs(args: list[str]) -> None:
    from argparse import ArgumentParser

    showing = args[:1] == ["show"]
    parser = ArgumentParser(prog="groat runs show" if showing else "groat runs", allow_abbrev=False)
    if showing:
        parser.add_argument("run", type=Path, help="a run's folder")
        parser.add_argument("--step", type=int, help="the step to show; by default the last")
        parser.add_argument("--num", type=int, default=4, help="how many completions (default: 4)")
    else:
        parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="where to look (default: runs)")
        parser.epilog = "`groat runs show RUN` prints what the model wrote in a run."
    parser.add_argument("--json", action="store_true", help="for scripts")
    options = parser.parse_args(args[1:] if showing else args)

    from groat.cli.runs import list_runs, show_run

    if showing:
        show_run(options.run, options.step, options.num, options.json)
    else:
        list_runs(options.folder, options.json)


def _bench(args: list[str]) -> None:
    work = args[0] if args else ""
    if work == "w1":
        from groat.cli.bench import bench_w1

        bench_w1(args[1:])
    elif work == "memory":
        from groat.cli.bench_memory import bench_memory

        bench_memory(args[1:])
    elif work == "quantize":
        from groat.cli.bench_quantize import bench_quantize

        bench_quantize(args[1:])
    else:
        raise UserError(
            "groat bench needs the name of the work: groat bench w1, groat bench quantize, or groat bench memory "
            "--case NAME"
        )


def _doctor(args: list[str]) -> None:
    from groat.cli.doctor import doctor_command

    doctor_command(args)


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "prime": _prime,
    "plan": _plan,
    "quantize": _quantize,
    "resume": _resume,
    "runs": _runs,
    "bench": _bench,
    "doctor": _doctor,
}


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


def _wrapped(text: str) -> str:
    """Each line of the text wrapped to the terminal; what follows a list's dash stays under it."""
    width = max(40, min(shutil.get_terminal_size().columns, 100))
    lines = text.splitlines()
    return "\n".join(
        textwrap.fill(
            line,
            width,
            subsequent_indent="  " if line.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines
    )
