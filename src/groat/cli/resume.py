"""`groat resume RUN`."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from groat.cli.outcome import note_on_failure, summary_json
from groat.types import UserError


def resume_command(args: list[str]) -> None:
    options = _parser().parse_args(args)
    if options.max_steps is not None and options.max_steps < 1:
        raise UserError(f"--max-steps must be at least 1, got {options.max_steps}")
    if not options.run.is_dir():
        raise UserError(f"there is no run in {options.run}: `groat runs` lists the runs below ./runs")

    from groat.tracking.console import Console
    from groat.training.run import resume

    try:
        summary = resume(options.run, Console(quiet=options.quiet), options.max_steps)
    except BaseException as error:
        note_on_failure(error, options.run)
        raise
    if options.json:
        print(summary_json(summary))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="groat resume",
        allow_abbrev=False,
        description="Go on with a run from its last checkpoint. The final weights are those of a run never stopped.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--max-steps", type=int, help="train up to this step instead of the one in the run's config")
    parser.add_argument("--quiet", action="store_true", help="only warnings")
    parser.add_argument("--json", action="store_true", help="a summary as JSON in the last line")
    return parser
