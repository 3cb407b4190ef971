"""What all trainers do: TRL's way of starting a run from Python.

What TRL's trainer has and this one does not: models given as transformers' objects, reward models, a dataloader,
push_to_hub. The loop, the run's folder and resuming are those of `groat train`.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from groat.algorithms.credit import length_metrics, reward_metrics
from groat.config.tree import EvaluationConfig, RunConfig
from groat.model.peft_files import load_peft
from groat.tasks.environments import Environments
from groat.tasks.task import PYTHON_TASK, Task, task_from_rows
from groat.tracking.console import Console
from groat.tracking.folder import RunFolder
from groat.tracking.reader import RunReader
from groat.tracking.store import RunStore
from groat.trainers.arguments import (
    Model,
    RewardFunc,
    dataset_rows,
    language_model,
    lora_of,
    reward_list,
    tokenizer_notes,
    with_model,
)
from groat.trainers.callbacks import Callbacks, TrainerState
from groat.trainers.config import RunOptions
from groat.trainers.going_on import check_same_config, check_same_rows, run_to_resume
from groat.trainers.task import repeating_in_order, with_trainer_state
from groat.trainers.translate import Data, translate
from groat.training.build import build
from groat.training.ending import Summary
from groat.training.phases import Stopped
from groat.training.run import resume, train
from groat.types import UserError

logger = logging.getLogger("groat")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOutput(Summary):
    """How training ended: a run's summary, and what transformers' TrainOutput has."""

    global_step: int
    """Updates of the weights."""
    training_loss: float
    metrics: Mapping[str, float]


class Trainer:
    """Trains an adapter on rows and reward functions given from Python, as a RunConfig made of `args` says.

    Each algorithm's trainer has TRL's signature, and passes on what groat can use of it.
    """

    def __init__(
        self,
        model: Model,
        reward_funcs: RewardFunc | Sequence[RewardFunc] | None,
        args: RunOptions,
        train_dataset: Any,
        *,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: Sequence[Any] | None = None,
        peft_config: Any = None,
        environments: Environments | None = None,
    ) -> None:
        self.args = args
        self.state = TrainerState()
        self.model = language_model(model)
        """What is trained; after training, generate with it and save it."""
        name = self.model.name_or_path
        task = self._task_from(reward_list(reward_funcs), train_dataset, eval_dataset)
        self._task = replace(task, environments=environments)
        lora, lora_notes = lora_of(self.model, peft_config)
        data = Data(
            task_name=PYTHON_TASK,
            num_rows=len(self._task.train),
            num_eval_rows=len(self._task.held_out) or None,
            reward_names=[reward.name for reward in self._task.rewards],
        )
        translation = translate(self.args, name, lora, data)
        self._config = with_model(translation.config, self.model, processing_class)
        self._train_task = self._task if self.args.shuffle_dataset else repeating_in_order(self._task)
        self._folder: Path | None = None
        self._output: TrainOutput | None = None
        self.state.max_steps = self._config.training.max_steps * self._updates_per_step
        _log_notes([*lora_notes, *tokenizer_notes(processing_class, name), *translation.notes])
        self._callbacks = Callbacks(list(callbacks or []), self.args, self.state)
        self._callbacks.call("on_init_end")

    @property
    def config(self) -> RunConfig:
        """The run these options ask for, as `groat train` would be told."""
        return self._config

    def train(self, resume_from_checkpoint: bool | str | PathLike[str] | None = None) -> TrainOutput:
        """Train and return how it went; everything else is in the run's folder (`output_dir` of the result).

        `resume_from_checkpoint`: the folder of an earlier run, or True for the one in output_dir. It goes on from its
        newest checkpoint, bit for bit, with the same rows and options; only max_steps may differ.
        """
        console = Console(quiet=self.args.disable_tqdm is True)
        self.model.release()
        if resume_from_checkpoint is None or resume_from_checkpoint is False:
            self._check_can_start()
            self._begin()
            summary = train(self._config, console, self._train_task, self._end_step)
        else:
            given = None if resume_from_checkpoint is True else Path(resume_from_checkpoint)
            self._folder = run_to_resume(self._config.output_dir, given, self._folder)
            check_same_config(self._config, self._folder)
            check_same_rows(self._config, self._folder, self._train_task)
            self._begin()
            summary = resume(self._folder, console, self._config.training.max_steps, self._train_task, self._end_step)
        return self._end(summary)

    def evaluate(self, eval_dataset: Any = None) -> dict[str, float]:
        """Reward and length figures on held-out rows, named `eval_...`; of the trained adapter, or the model before it.

        Loads the model anew, beside nothing else: memory is that of sampling.
        """
        task = self._task if eval_dataset is None else self._with_held_out(eval_dataset)
        if not task.held_out:
            raise UserError("evaluate() needs held-out rows: give the trainer an eval_dataset, or evaluate(rows)")
        started = time.perf_counter()
        self.model.release()
        built = build(replace(self._config, evaluation=EvaluationConfig(num_problems=0)), task)
        adapter = None if self._output is None else load_peft(RunFolder(self._run_folder).adapter, built.model.spec)
        params = replace(built.parts.sampling, num_generations=self._config.evaluation.num_samples)
        prompts = built.parts.encode(task.held_out)
        with built.parts.sampler.awake():
            groups = built.parts.sampler.sample(prompts, adapter, params, range(len(prompts)))
        groups = built.parts.grader.grade(groups)
        built.close()
        figures = reward_metrics(groups) | length_metrics(groups) | {"runtime": time.perf_counter() - started}
        metrics = {f"eval_{name}": value for name, value in figures.items()}
        self.state.log_history.append({**metrics, "step": self.state.global_step, "epoch": self.state.epoch})
        return metrics

    def save_model(self, output_dir: str | PathLike[str] | None = None) -> None:
        """Copy the trained adapter, in PEFT's format, to this folder (default: output_dir/adapter holds it already)."""
        adapter = RunFolder(self._run_folder).adapter
        if output_dir is not None and Path(output_dir).resolve() != adapter.resolve():
            shutil.copytree(adapter, output_dir, dirs_exist_ok=True)

    @property
    def _run_folder(self) -> Path:
        if self._output is None:
            raise UserError("nothing is trained yet: call train() first")
        return Path(self._output.output_dir)

    @property
    def _updates_per_step(self) -> int:
        return self.args.num_iterations

    def _task_from(self, reward_funcs: Sequence[RewardFunc], train_dataset: Any, eval_dataset: Any) -> Task:
        task = task_from_rows(
            dataset_rows(train_dataset, "train_dataset"),
            None if eval_dataset is None else dataset_rows(eval_dataset, "eval_dataset"),
            reward_funcs,
            self.args.reward_weights,
            name="train_dataset",
            seed=self.args.seed if self.args.shuffle_dataset else None,
            reward_timeout_seconds=self.args.reward_timeout_seconds,
        )
        if not reward_funcs:
            logger.warning("no reward_funcs: answers are compared with the column `answer` (answer_match)")
        rewards = tuple(with_trainer_state(reward, self.state) for reward in task.rewards)
        return replace(task, name=PYTHON_TASK, rewards=rewards)

    def _with_held_out(self, eval_dataset: Any) -> Task:
        functions = [reward.function for reward in self._task.rewards]
        rows = list(dataset_rows(eval_dataset, "eval_dataset"))
        return replace(self._task, held_out=task_from_rows(rows, None, functions, name="eval_dataset").train)

    def _check_can_start(self) -> None:
        if self._output is not None:
            raise UserError(
                "this trainer has trained already. To go on with its run: train(resume_from_checkpoint=True), after "
                "raising max_steps if it was finished; to start anew, make another trainer with another output_dir"
            )
        folder = self._config.output_dir
        if "{name}" not in folder and RunFolder(Path(folder)).config_path.exists():
            raise UserError(
                f"output_dir {folder} already holds a run. To go on with it: train(resume_from_checkpoint=True). To "
                f'start anew, choose another output_dir; one with {{name}}, such as "{folder}/{{name}}", is always new'
            )

    def _begin(self) -> None:
        self.state.log_history.clear()
        self._callbacks.control.should_training_stop = False
        self._callbacks.call("on_train_begin")

    def _end_step(self, step: int, figures: Mapping[str, float]) -> None:
        """Called by the run after every step."""
        state = self.state
        if not state.log_history and step > 1 and self._folder is not None:
            state.log_history.extend(self._recorded_steps(self._folder, step - 1))
        state.global_step, state.epoch = step * self._updates_per_step, self._epoch(step)
        state.log_history.append(self._entry(step, figures))
        self._callbacks.end_step(state.log_history[-1])
        if self._callbacks.control.should_training_stop and step < self._config.training.max_steps:
            raise Stopped

    def _end(self, summary: Summary) -> TrainOutput:
        state, self._folder = self.state, Path(summary.output_dir)
        state.global_step, state.epoch = summary.steps * self._updates_per_step, self._epoch(summary.steps)
        with RunStore.read(RunFolder(self._folder).store_path) as reader:
            if not state.log_history:
                state.log_history.extend(self._recorded_steps(self._folder, summary.steps))
            state.log_history.extend(self._evaluations(reader))
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = math.fsum(losses) / len(losses) if losses else math.nan
        metrics = {
            "train_runtime": summary.train_seconds,
            "train_steps_per_second": state.global_step / max(summary.train_seconds, 1e-9),
            "train_loss": loss,
            "epoch": state.epoch,
        }
        values = {one.name: getattr(summary, one.name) for one in fields(Summary)}
        self._output = TrainOutput(**values, global_step=state.global_step, training_loss=loss, metrics=metrics)
        self.model.use_run(RunFolder(self._folder))
        self._callbacks.call("on_train_end")
        return self._output

    def _entry(self, step: int, figures: Mapping[str, float]) -> dict[str, float]:
        return {**figures, "step": step * self._updates_per_step, "epoch": self._epoch(step)}

    def _epoch(self, step: int) -> float:
        return step * self._config.prompts_per_step / len(self._task.train)

    def _recorded_steps(self, folder: Path, last: int) -> list[dict[str, float]]:
        """The entries of steps that an earlier process trained."""
        figures: dict[int, dict[str, float]] = {}
        with RunStore.read(RunFolder(folder).store_path) as reader:
            series = [(name, reader.metrics(name)) for name in reader.metric_names()]
            series += [(name, reader.timings(name)) for name in reader.timing_names()]
        for name, values in series:
            for step, value in values:
                figures.setdefault(step, {})[name] = value
        # Steps up to 0 are those of a cold start.
        return [self._entry(step, figures[step]) for step in sorted(figures) if 0 < step <= last]

    def _evaluations(self, reader: RunReader) -> list[dict[str, float]]:
        return [
            self._entry(step, {f"eval_{name}": figure.value for name, figure in figures.items()})
            for step, figures in reader.evaluations().items()
        ]


def _log_notes(notes: Sequence[str]) -> None:
    if notes:
        logger.warning("Options that work in another way here, or make no difference:\n- %s", "\n- ".join(notes))
