"""`groat train [RECIPE] [flags]`, and `groat prime`, its first part alone."""

from __future__ import annotations

import difflib
import time
from pathlib import Path

from groat.cli.outcome import note_on_failure, summary_json
from groat.config.load import from_command_line, read_yaml, to_yaml
from groat.config.presets import preset_names, read_preset
from groat.config.tree import RunConfig
from groat.types import UserError

_DESCRIPTION = """\
groat train [RECIPE] [flags]

Train a LoRA adapter. RECIPE is a YAML file or a preset ({presets}); it comes first.

Without a recipe, the flags change the preset demo.

The flags most runs need:
  --model --task --algorithm --budget --max-steps --num-generations
  --max-completion-length --learning-rate --seed --output-dir

Besides the fields below:
  --dry-run   print the resolved recipe and stop
  --quiet     only warnings
  --json      a summary as JSON in the last line
"""
_PRIME_DESCRIPTION = """\
groat prime [RECIPE] [flags of `groat train`]

Only the cold start of a run: learn the worked examples of cold_start.examples and
stop. `groat resume RUN` goes on with reinforcement learning.
"""
_SWITCHES = ("--quiet", "--json", "--dry-run")


def train_command(args: list[str]) -> None:
    _begin(args, "groat train", _DESCRIPTION.format(presets=", ".join(preset_names())))


def prime_command(args: list[str]) -> None:
    _begin(args, "groat prime", _PRIME_DESCRIPTION, only_prime=True)


def _begin(args: list[str], prog: str, description: str, *, only_prime: bool = False) -> None:
    switches = {arg for arg in args if arg in _SWITCHES}
    args = [arg for arg in args if arg not in _SWITCHES]
    recipe = args.pop(0) if args and not args[0].startswith("-") else "demo"
    config = from_command_line(args, read_recipe(recipe), prog, description)
    if "--dry-run" in switches:
        print(to_yaml(config), end="")
    else:
        _train(config, recipe, quiet="--quiet" in switches, as_json="--json" in switches, only_prime=only_prime)


def _train(config: RunConfig, recipe: str, *, quiet: bool, as_json: bool, only_prime: bool) -> None:
    from groat.tracking.console import Console
    from groat.training.run import train

    if not quiet:
        print(
            f"recipe: {recipe}" + ("" if Path(recipe).is_file() else " (built in; `--dry-run` prints it)"), flush=True
        )
    started = time.time()
    try:
        summary = train(config, Console(quiet=quiet), only_prime=only_prime)
    except BaseException as error:
        note_on_failure(error, _run_folder(config.output_dir, started))
        raise
    if as_json:
        print(summary_json(summary))


def read_recipe(name: str) -> RunConfig:
    """A YAML file, or a preset by its name, whatever folder is called so."""
    path = Path(name)
    if name in preset_names() and not path.is_file():
        return read_preset(name)
    if path.exists():
        return read_yaml(path)
    raise UserError(f"there is no recipe {name!r}: {_near_recipes(path)}")


def _near_recipes(path: Path) -> str:
    known = {**{name: name for name in preset_names()}, **{file.stem: str(file) for file in _recipe_files()}}
    near = difflib.get_close_matches(path.stem, known, 3, 0.5)
    if near:
        return f"did you mean {' or '.join(known[stem] for stem in near)}?"
    return f"known are {', '.join(known.values())}, and any YAML file"


def _recipe_files() -> list[Path]:
    return sorted(Path("recipes").glob("*.yaml"))


def _run_folder(output_dir: str, started: float) -> Path | None:
    """The folder that this run has made, as far as one can tell from outside."""
    pattern = Path(output_dir.replace("{name}", "*"))
    # File times lag behind the clock by some milliseconds.
    folders = [path for path in pattern.parent.glob(pattern.name) if path.stat().st_mtime >= started - 1]
    return max(folders, key=lambda path: path.stat().st_mtime, default=None)
