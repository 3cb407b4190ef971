import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import events_of, write_recipe

from groat.algorithms.base import Loss
from groat.algorithms.grpo import GRPO
from groat.config.load import read_yaml
from groat.config.tree import RunConfig
from groat.sampling.native.sampler import NativeSampler
from groat.tracking.console import Console
from groat.tracking.store import RunStore
from groat.training.build import Built, build
from groat.training.checkpoint import Checkpoint, newest_checkpoint
from groat.training.checks import CheckError, check_logprob_difference, check_policy_canary, logprob_metrics, perturbed
from groat.training.phases import Phases
from groat.training.run import resume, train
from groat.training.step import step_problems, step_seeds, train_step
from groat.types import Group, UserError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(write_recipe(tmp_path, training={"max_steps": 3}, evaluation={"num_problems": 0}))
    return read_yaml(Path("recipe.yaml"))


def quiet() -> Console:
    return Console(quiet=True, stream=io.StringIO())


def change_samples(monkeypatch: pytest.MonkeyPatch, change: Callable[[Group], Group]) -> None:
    """Every group of the native sampler goes through `change`."""
    plain = NativeSampler.sample

    def sample(self: NativeSampler, *args: Any) -> list[Group]:
        return [change(group) for group in plain(self, *args)]

    monkeypatch.setattr(NativeSampler, "sample", sample)


def shifted(nats: float) -> Callable[[Group], Group]:
    """The sampler believes its tokens to be likelier than they are."""

    def change(group: Group) -> Group:
        return replace(
            group,
            completions=tuple(
                replace(one, policy_logprobs=tuple(logprob + nats for logprob in one.policy_logprobs))
                for one in group.completions
            ),
        )

    return change


def spoil_loss(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """The loss of the `call`-th micro-batch from now on is nan, and so is its gradient."""
    plain, calls = GRPO.loss, iter(range(1, 10_000))

    def loss(self: GRPO, *args: Any) -> Loss:
        found = plain(self, *args)
        return replace(found, total=found.total * math.nan) if next(calls) == call else found

    monkeypatch.setattr(GRPO, "loss", loss)


def checkpoint_of(run: str) -> Checkpoint:
    found = newest_checkpoint(Path(run) / "checkpoints", print)
    assert found is not None
    return found


def step(built: Built, number: int) -> Any:
    problems = step_problems(built.task.train, 0, number, 2)
    return train_step(built.parts, problems, step_seeds(0, number, 2), built.parts.learner.adapter, Phases(quiet()))


# The policy canary


class IgnoresTheAdapter:
    """What the canary is there for: it samples the base model, whatever the policy."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self.awake = sampler.awake

    def sample(self, prompts: Any, adapter: Any, *args: Any) -> list[Group]:
        return self._sampler.sample(prompts, None, *args)


def test_the_canary_catches_a_sampler_that_ignores_the_adapter(config: RunConfig) -> None:
    built = build(config)
    prompt = built.parts.encode([built.task.train[0]])[0]
    adapter = built.parts.learner.adapter
    check_policy_canary(built.parts.sampler, prompt, adapter, built.parts.sampling)
    with pytest.raises(CheckError, match=r"policy canary.*does not follow the adapter"):
        check_policy_canary(IgnoresTheAdapter(built.parts.sampler), prompt, adapter, built.parts.sampling)


def test_the_canary_leaves_the_adapter_as_it_is(config: RunConfig) -> None:
    adapter = build(config).parts.learner.adapter
    moved = perturbed(adapter).named_tensors()
    for name, tensor in adapter.named_tensors().items():
        assert torch.equal(moved[name], tensor) == name.endswith(".a"), name
        assert ".b." not in name or not tensor.any()


def test_a_model_that_computes_nan_is_refused_before_the_first_step(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_samples(monkeypatch, shifted(math.nan))
    with pytest.raises(CheckError, match="first log-prob is nan"):
        train(config, quiet())


# The difference between sampler and learner


def test_a_difference_is_told_above_its_limit_and_ends_the_run_at_ten_times_that() -> None:
    assert check_logprob_difference(0.001, 0.001) is None
    assert check_logprob_difference(0.002, 0.001) == (
        "sampler and learner log-probs differ by up to 0.002 nats (limit 0.001)"
    )
    assert check_logprob_difference(0.01, 0.001) is not None
    with pytest.raises(CheckError, match=r"differ by up to 0.011 nats.*not the policy that is trained"):
        check_logprob_difference(0.011, 0.001)
    assert check_logprob_difference(math.nan, 0.001) is not None


def test_the_difference_is_measured_without_its_sign_and_nan_is_not_passed_over() -> None:
    found = logprob_metrics([0.1, -0.5, 0.3])
    assert found["sampling/sampling_logp_difference/mean"] == pytest.approx(0.3)
    assert found["sampling/sampling_logp_difference/max"] == 0.5
    assert math.isnan(logprob_metrics([0.1, math.nan, 0.3])["sampling/sampling_logp_difference/max"])
    assert logprob_metrics([]) == {}


def test_a_run_whose_sampler_is_a_little_off_goes_on_with_an_event_per_step(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_samples(monkeypatch, shifted(0.004))
    assert train(config, quiet()).finished
    events = events_of(Path("run"))
    assert [kind for kind, _ in events] == ["log-probs"] * 3
    assert "differ by up to 0.004 nats" in events[0][1]


def test_a_run_whose_sampler_is_far_off_is_stopped_and_saved(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_samples(monkeypatch, shifted(0.02))
    with pytest.raises(CheckError, match="go on from step 1: groat resume run"):
        train(config, quiet())
    assert checkpoint_of("run").progress.step == 1
    assert [kind for kind, _ in events_of(Path("run"))] == ["error"]


# What is not finite


def test_a_step_with_a_nan_loss_leaves_weights_and_optimizer_untouched(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(config)
    assert step(built, 1).update.skipped is None
    before = {name: tensor.clone() for name, tensor in built.parts.learner.state().items()}
    assert any("exp_avg" in name and tensor.any() for name, tensor in before.items())
    spoil_loss(monkeypatch, call=2)
    skipped = step(built, 2).update
    assert skipped.skipped == "loss is nan"
    after = built.parts.learner.state()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert step(built, 3).update.skipped is None
    assert not all(torch.equal(built.parts.learner.state()[name], tensor) for name, tensor in before.items())


def test_a_skipped_step_is_an_event_and_the_run_goes_on(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_loss(monkeypatch, call=1)
    assert train(config, quiet()).finished
    assert events_of(Path("run")) == [
        ("not finite", "step 1: loss is nan; the weights were left as they are"),
    ]


def test_on_nonfinite_stop_ends_the_run_with_its_weights_saved(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, training=replace(config.training, on_nonfinite="stop"))
    fresh = {name: tensor.clone() for name, tensor in build(config).parts.learner.state().items()}
    with monkeypatch.context() as patched:
        spoil_loss(patched, call=1)
        with pytest.raises(
            UserError, match=r"step 1: loss is nan.*on_nonfinite is stop.*from step 1: groat resume run"
        ):
            train(config, quiet())
    saved = checkpoint_of("run").tensors
    assert all(torch.equal(saved[name], tensor) for name, tensor in fresh.items())
    assert resume(Path("run"), quiet()).finished


# An error while ending


def test_the_first_error_is_told_even_where_it_can_neither_be_recorded_nor_saved(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise UserError("the disk is full")

    def reward_fails(*_: object) -> None:
        raise UserError("the reward function is wrong.")

    monkeypatch.setattr(RunStore, "record_event", full)
    monkeypatch.setattr("groat.training.under_way.save_checkpoint", full)
    monkeypatch.setattr("groat.training.reinforcement.train_step", reward_fails)
    with pytest.raises(UserError) as error:
        train(config, quiet())
    assert str(error.value) == "the reward function is wrong. Once that is put right, go on: groat resume run"


@pytest.mark.parametrize("place", ["ending.save_peft", "under_way.RunFolder.write_summary"])
def test_an_end_that_cannot_be_written_is_told_and_can_be_made_up_for(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise UserError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(f"groat.training.{place}", full)
        with pytest.raises(UserError, match=r"the disk is full. Once that is put right, go on from step 3"):
            train(config, quiet())
    assert resume(Path("run"), quiet()).finished
