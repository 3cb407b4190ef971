"""A task: the problems to train on, the held-out ones, the rewards, and what counts as a right answer."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from groat.config.tree import TaskConfig
from groat.tasks.arithmetic import ArithmeticStream, arithmetic_opening, held_out_arithmetic
from groat.tasks.countdown import (
    CountdownStream,
    answer_verdict,
    countdown_answer,
    countdown_numbers,
    countdown_opening,
    held_out_countdown,
)
from groat.tasks.environments import Environments
from groat.tasks.extraction import last_tag
from groat.tasks.gym_task import HELD_OUT_SEED, NUM_HELD_OUT, NUM_TRAIN, PREFIX, gym_from, gym_problems, gym_reward
from groat.tasks.hub_rows import PREFIX as HUB_PREFIX
from groat.tasks.hub_rows import read_dataset
from groat.tasks.judges import Judge, judged
from groat.tasks.large_arithmetic import LARGE, called_answer, called_numbers, large_opening
from groat.tasks.reward_arguments import Answers, check_arguments
from groat.tasks.reward_loading import GivenFunctions, load_reward, reward_functions
from groat.tasks.rewards import Grader, RewardFunction
from groat.tasks.rows import problems_from_rows, split_held_out
from groat.tasks.tables import ENDINGS, read_rows
from groat.tasks.tools.loading import environments_from
from groat.tasks.verifiers import (
    answer_match,
    correct_answer,
    has_correct_answer,
    is_answer_match,
    is_numeric_match,
    right_steps,
    written_steps,
)
from groat.tasks.verifiers_loading import PREFIX as VERIFIERS_PREFIX
from groat.tasks.verifiers_loading import environment_rows, load_environment
from groat.tasks.verifiers_rewards import rubric_rewards
from groat.tasks.verifiers_rollouts import Coroutines, VerifiersEnvironments, told_tools
from groat.types import Problem, Turn, UserError

PYTHON_TASK = "python"
"""task.name of a run whose rows and reward functions were given from Python and are in no file."""

logger = logging.getLogger("groat")


class Judgement(Protocol):
    def __call__(self, problem: Problem, text: str, turns: Sequence[Turn] = (), environment: Any = None, /) -> bool:
        """Whether a completion is right: the text of its last turn, and, if it is a conversation, all turns and what it
        talked to."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a run is trained on."""

    name: str
    train: Sequence[Problem]
    held_out: Sequence[Problem]
    """The same whatever the seed."""
    rewards: tuple[RewardFunction, ...]
    is_correct: Judgement | None
    """How evaluation judges a text: by the answer; for rows with reward functions of their own, the first one gives
    1 or more (it is called with that one completion, and with no completion ids). None: only the judge can tell."""
    judge: Judge | None = None
    """What compares answers in place of reward functions; evaluation then compares with the answers before training."""
    environments: Environments | None = None
    """What completions talk to; None: each is one turn."""


def build_task(config: TaskConfig, seed: int) -> Task:
    """`seed` chooses the training problems of built-in tasks, or the order of a file's rows."""
    task = _without_environments(config, seed)
    if task.environments is None:
        task = replace(task, environments=environments_from(config))
    if config.judge is None:
        return task
    judge = load_reward(config.judge)
    return replace(task, judge=judge, rewards=(judged(judge),))


def _without_environments(config: TaskConfig, seed: int) -> Task:
    if config.name == "arithmetic":
        return _arithmetic(config, seed)
    if config.name == "large_arithmetic":
        return _large_arithmetic(config, seed)
    if config.name == "countdown":
        return _countdown(config, seed)
    if config.name.startswith(PREFIX):
        return _gym(config, seed)
    if config.name.startswith(VERIFIERS_PREFIX):
        return _verifiers(config, seed)
    if config.name == PYTHON_TASK:
        raise UserError(
            "this run was started from Python: its rows and reward functions are in the script, not in the run's "
            "folder. Run the script again with trainer.train(resume_from_checkpoint=True)"
        )
    if not config.name.endswith(ENDINGS) and not config.name.startswith(HUB_PREFIX):
        raise UserError(
            f"task.name is {config.name!r}: use arithmetic, large_arithmetic, countdown, {PREFIX}DATASET, "
            f"{VERIFIERS_PREFIX}ENVIRONMENT, {HUB_PREFIX}HUB_ID, or a file of rows with a `prompt` column "
            f"({', '.join(ENDINGS)})"
        )
    train = _problems_of(config.name, config)
    if config.eval_name is None:
        train, held_out = split_held_out(train, config.eval_fraction)
    else:
        held_out = _problems_of(config.eval_name, config)
        _warn_of_overlap(train, held_out, config.eval_name)
    if config.judge is not None and not all("answer" in problem.columns for problem in (*train, *held_out)):
        rewards, is_correct = (), None
    else:
        rewards, is_correct = _judges(
            train,
            held_out,
            config.reward_funcs,
            config.reward_weights,
            config.reward_timeout_seconds,
            _isolated_seconds(config),
        )
    name = Path(config.name).stem
    ordered = _shuffled(train, seed) if config.shuffle_dataset else train
    return Task(name=name, train=ordered, held_out=held_out, rewards=rewards, is_correct=is_correct)


def task_from_rows(
    rows: Iterable[Mapping[str, Any]],
    eval_rows: Iterable[Mapping[str, Any]] | None = None,
    reward_funcs: GivenFunctions = (),
    reward_weights: Sequence[float] | None = None,
    *,
    name: str = "rows",
    seed: int | None = None,
    reward_timeout_seconds: float = 60.0,
) -> Task:
    """A task from Python: any iterable of mappings with TRL's columns, such as a `datasets.Dataset`.

    `prompt` is text or chat turns; reward functions get the other columns by name. Without reward functions each row
    needs an `answer`. A seed shuffles the training rows; None keeps their order.
    """
    train = problems_from_rows(rows, name)
    held_out: tuple[Problem, ...] = ()
    if eval_rows is not None:
        held_out = problems_from_rows(eval_rows, f"{name} (held out)")
        _warn_of_overlap(train, held_out, f"{name} (held out)")
    rewards, is_correct = _judges(train, held_out, reward_funcs, reward_weights, reward_timeout_seconds)
    ordered = train if seed is None else _shuffled(train, seed)
    return Task(name=name, train=ordered, held_out=held_out, rewards=rewards, is_correct=is_correct)


def _arithmetic(config: TaskConfig, seed: int) -> Task:
    opening = arithmetic_opening(config.num_examples, config.system_prompt)
    num_steps = config.num_steps
    rewards = (
        RewardFunction(name="correct_answer", function=correct_answer, weight=1.0),
        RewardFunction(name="right_steps", function=right_steps, weight=0.5),
        RewardFunction(name="written_steps", function=written_steps, weight=0.2),
    )
    return Task(
        name="arithmetic",
        train=ArithmeticStream(seed, num_steps, opening),
        held_out=held_out_arithmetic(num_steps, opening),
        rewards=_asked_for(config, ("answer", "num_steps", "solution")) or rewards,
        is_correct=_says_the_answer,
    )


def _large_arithmetic(config: TaskConfig, seed: int) -> Task:
    opening = large_opening(config.num_examples, config.system_prompt, with_calls="calculator" in config.tools)
    rewards = (RewardFunction(name="correct_answer", function=correct_answer),)
    if config.tools:
        rewards += (
            RewardFunction(name="called_answer", function=called_answer, weight=0.5),
            RewardFunction(name="called_numbers", function=called_numbers, weight=0.3),
        )
    return Task(
        name="large_arithmetic",
        train=ArithmeticStream(seed, config.num_steps, opening, sizes=LARGE),
        held_out=held_out_arithmetic(config.num_steps, opening, LARGE),
        rewards=_asked_for(config, ("answer", "num_steps", "solution")) or rewards,
        is_correct=lambda problem, text, _=(), __=None: has_correct_answer(text, problem.columns["answer"]),
    )


def _says_the_answer(problem: Problem, text: str, *_: Any) -> bool:
    """Between the last `<answer>` tags, where there are any, or in the last `Answer:` line."""
    tagged, answer = last_tag(text), problem.columns["answer"]
    return has_correct_answer(text, answer) if tagged is None else is_numeric_match(tagged, answer)


def _asked_for(config: TaskConfig, columns: Sequence[str]) -> tuple[RewardFunction, ...]:
    """The configured rewards, for rows with these columns; none where the task's own are to be used."""
    if not config.reward_funcs:
        return ()
    return reward_functions(config.reward_funcs, config.reward_weights, columns, _isolated_seconds(config))


def _isolated_seconds(config: TaskConfig) -> float | None:
    return config.reward_timeout_seconds if config.isolate_rewards else None


def _countdown(config: TaskConfig, seed: int) -> Task:
    opening = countdown_opening(config.num_examples, config.system_prompt)
    rewards = (
        RewardFunction(name="countdown_answer", function=countdown_answer, weight=1.0),
        RewardFunction(name="countdown_numbers", function=countdown_numbers, weight=0.1),
    )
    return Task(
        name="countdown",
        train=CountdownStream(seed, config.num_operands, opening),
        held_out=held_out_countdown(config.num_operands, opening),
        rewards=_asked_for(config, ("nums", "target", "answer")) or rewards,
        is_correct=lambda problem, text, _=(), __=None: (
            answer_verdict(text, problem.columns["nums"], problem.columns["target"]) >= 1
        ),
    )


def _gym(config: TaskConfig, seed: int) -> Task:
    gym = gym_from(config.name)
    own = RewardFunction(name="reasoning_gym", function=gym_reward(gym))
    return Task(
        name=gym.dataset,
        train=gym_problems(gym, seed, NUM_TRAIN, config.system_prompt),
        held_out=gym_problems(gym, HELD_OUT_SEED, NUM_HELD_OUT, config.system_prompt),
        rewards=_asked_for(config, ("answer", "gym_place")) or (own,),
        is_correct=partial(_is_rewarded, Grader([own], config.reward_timeout_seconds)),
    )


def _verifiers(config: TaskConfig, seed: int) -> Task:
    if config.tools or config.environment is not None:
        raise UserError(f"{config.name} brings its own tools: take task.tools and task.environment out")
    environment = load_environment(config.name)
    train, held_out = environment_rows(environment, config.name)
    if held_out is None:
        train, held_out = split_held_out(train, config.eval_fraction)
    loop = Coroutines(config.reward_timeout_seconds)
    rewards = _asked_for(config, tuple(_columns(train))) or rubric_rewards(environment, loop)
    first = next(reward for reward in rewards if reward.weight)
    own_turns = getattr(environment, "max_turns", -1)
    return Task(
        name=type(environment).__name__,
        train=_shuffled(train, seed) if config.shuffle_dataset else train,
        held_out=held_out,
        rewards=rewards,
        is_correct=partial(_is_rewarded, Grader([first], config.reward_timeout_seconds)),
        environments=VerifiersEnvironments(
            environment=environment,
            loop=loop,
            max_turns=own_turns if own_turns > 0 else config.max_turns,
            format_name=config.tool_format,
            tools=told_tools(environment),
        ),
    )


def _problems_of(path: str, config: TaskConfig) -> tuple[Problem, ...]:
    read = read_dataset if path.startswith(HUB_PREFIX) else read_rows
    rows = (_shaped(row, config, path) for row in read(path))
    return problems_from_rows(rows, path, config.system_prompt)


def _shaped(row: Mapping[str, Any], config: TaskConfig, path: str) -> Mapping[str, Any]:
    """The row with the column that holds the prompt called so, and as a chat turn if asked."""
    column = config.prompt_column
    if column not in row and column != "prompt":
        raise UserError(
            f"{path} has a row without the column `{column}`, which task.prompt_column names; it has "
            f"{', '.join(map(str, row)) or 'nothing'}"
        )
    shaped = {name: value for name, value in row.items() if name not in (column, "prompt")}
    if column in row:
        prompt = row[column]
        shaped["prompt"] = [{"role": "user", "content": prompt}] if config.chat and isinstance(prompt, str) else prompt
    return shaped


def _judges(
    train: Sequence[Problem],
    held_out: Sequence[Problem],
    functions: GivenFunctions,
    weights: Sequence[float] | None,
    timeout_seconds: float,
    isolated_seconds: float | None = None,
) -> tuple[tuple[RewardFunction, ...], Judgement]:
    if not functions:
        _check_answers((*train, *held_out))
        rewards = (RewardFunction(name="answer_match", function=answer_match),)
        return rewards, lambda problem, text, _=(), __=None: is_answer_match(text, problem.columns["answer"])
    rewards = reward_functions(functions, weights, _columns(train), isolated_seconds)
    if held_out:
        check_arguments(rewards[0].name, rewards[0].function, _columns(held_out))
    grader = Grader(rewards[:1], timeout_seconds)
    return rewards, partial(_is_rewarded, grader)


def _is_rewarded(
    grader: Grader, problem: Problem, text: str, turns: Sequence[Turn] = (), environment: Any = None
) -> bool:
    """None, not applicable, counts as wrong."""
    answers = Answers(problems=[problem], texts=[text], token_ids=[()], turns=[turns], environments=[environment])
    [value] = grader.values(answers)[grader.functions[0].name]
    return value is not None and value >= 1


def _check_answers(problems: Sequence[Problem]) -> None:
    for problem in problems:
        if problem.columns.get("answer") is None:
            raise UserError(
                f"row {problem.id} has no `answer`, only {', '.join(problem.columns) or 'a prompt'}, and there are no "
                "reward functions: name some in task.reward_funcs, or give every row an `answer`"
            )


def _columns(problems: Sequence[Problem]) -> set[str]:
    return {name for problem in problems for name in problem.columns}


def _warn_of_overlap(train: Sequence[Problem], held_out: Sequence[Problem], source: str) -> None:
    trained_on = {str(problem.prompt) for problem in train}
    num_shared = sum(str(problem.prompt) in trained_on for problem in held_out)
    if num_shared:
        logger.warning("%s: %d of %d prompts are also trained on", source, num_shared, len(held_out))


def _shuffled(problems: Sequence[Problem], seed: int) -> tuple[Problem, ...]:
    return tuple(random.Random(seed).sample(problems, len(problems)))
