"""AdamW and its learning rate, by hand."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator

import bitsandbytes
import pytest
import torch

from groat.config.tree import TrainingConfig
from groat.kernels.native import choose_kernels
from groat.learning.optimizer import AdamW, AdamW8bit, Optimizer, learning_rate


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig(**({"learning_rate": 1.0} | changes))  # type: ignore[arg-type]


def rates(num_updates: int, **changes: object) -> list[float]:
    return [learning_rate(config(**changes), update, num_updates) for update in range(num_updates)]


def test_a_constant_rate_stays():
    assert rates(4, lr_scheduler_type="constant") == [1, 1, 1, 1]


def test_a_linear_rate_falls_by_equal_steps_and_would_reach_zero_after_the_last_update():
    assert rates(4, lr_scheduler_type="linear") == [1, 0.75, 0.5, 0.25]


def test_a_cosine_rate_falls_along_half_a_wave():
    expected = [1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2]
    assert rates(4, lr_scheduler_type="cosine") == pytest.approx(expected)


def test_warmup_rises_to_the_full_rate_and_the_schedule_begins_after_it():
    """A quarter of 8 updates: 1/2, 1; then the linear schedule over the other 6."""
    expected = [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert rates(8, lr_scheduler_type="linear", warmup_ratio=0.25) == pytest.approx(expected)


def test_a_broken_number_of_warmup_updates_is_rounded_up():
    """30% of 4 updates is 1.2: 2 of them."""
    assert rates(4, lr_scheduler_type="constant", warmup_ratio=0.3) == [1 / 2, 1, 1, 1]


def test_warmup_may_fill_the_whole_run():
    assert rates(4, lr_scheduler_type="linear", warmup_ratio=1.0) == [1 / 4, 2 / 4, 3 / 4, 1]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_beyond_the_last_update_the_rate_is_zero_and_never_negative(kind: str):
    assert [learning_rate(config(lr_scheduler_type=kind), update, 4) for update in (4, 5, 9)] == [0, 0, 0]


def test_adamw_by_hand():
    """With g the gradient: m = (1 - b1) g and v = (1 - b2) g^2, both then divided by 1 - b1^t and 1 - b2^t."""
    settings = config(learning_rate=0.1, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-3, weight_decay=0.5)
    weight = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
    optimizer = AdamW([weight], settings)
    expected, m, v = [2.0, -1.0], [0.0, 0.0], [0.0, 0.0]
    for time, gradient in enumerate(([0.5, -3.0], [-1.0, 0.25], [0.1, 0.1]), start=1):
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step(0.1)
        for i, g in enumerate(gradient):
            m[i], v[i] = 0.8 * m[i] + 0.2 * g, 0.9 * v[i] + 0.1 * g * g
            corrected_m, corrected_v = m[i] / (1 - 0.8**time), v[i] / (1 - 0.9**time)
            expected[i] = expected[i] * (1 - 0.1 * 0.5) - 0.1 * corrected_m / (math.sqrt(corrected_v) + 1e-3)
    assert weight.tolist() == pytest.approx(expected, rel=1e-12)


def test_adamw_is_torchs_to_the_bit_also_where_a_parameter_has_no_gradient_yet():
    settings = config(learning_rate=0.02, adam_beta1=0.9, adam_beta2=0.99, adam_epsilon=1e-8, weight_decay=0.1)
    ours, theirs = ([torch.linspace(-1, 1, 40, requires_grad=True) for _ in range(2)] for _ in range(2))
    optimizer = AdamW(ours, settings)
    reference = torch.optim.AdamW(theirs, lr=0.02, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, fused=True)
    for step in range(4):
        for weights in (ours, theirs):
            for index, weight in enumerate(weights):
                weight.grad = torch.sin(torch.arange(40.0) * (step + 1)) if index <= step else None
        optimizer.step(0.02)
        reference.step()
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


def test_training_never_imports_the_compiler_of_torch():
    """60 MiB and some seconds that nothing here needs."""
    program = (
        "import sys, torch\n"
        "from groat.config.tree import TrainingConfig\n"
        "from groat.learning.optimizer import AdamW\n"
        "weight = torch.ones(3, requires_grad=True)\n"
        "weight.grad = torch.ones(3)\n"
        "AdamW([weight], TrainingConfig()).step(0.1)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_room_made_early_changes_no_moment():
    weight = torch.ones(3, requires_grad=True)
    optimizer = AdamW([weight], config())
    optimizer.make_room()
    assert {name: state.tolist() for name, state in optimizer.state(weight).items()} == {
        "step": 0,
        "exp_avg": [0, 0, 0],
        "exp_avg_sq": [0, 0, 0],
    }
    weight.grad = torch.tensor([1.0, -2.0, 3.0])
    optimizer.step(0.1)
    before = {name: state.clone() for name, state in optimizer.state(weight).items()}
    optimizer.make_room()
    assert all(torch.equal(before[name], state) for name, state in optimizer.state(weight).items())


def test_the_first_step_in_8_bits_is_that_in_fp32():
    """Moments are rounded after they were used."""
    settings = config(adam_beta1=0.9, adam_beta2=0.99, adam_epsilon=1e-8, weight_decay=0.3)
    weights = [torch.linspace(-1, 1, 1000, requires_grad=True) for _ in range(2)]
    for weight, kind in zip(weights, (AdamW, AdamW8bit), strict=True):
        weight.grad = torch.cos(torch.arange(1000.0))
        kind([weight], settings).step(0.05)
    assert torch.allclose(*weights, rtol=0, atol=3e-7)  # 1 has neighbours 1.2e-7 away


def test_moments_in_8_bits_are_rounded_to_the_nearest_code_by_hand():
    """One block: the largest number is kept, 0 stays 0, and half of the largest becomes the nearest of the 64 centres
    between 0.1 and 1 (signed) or of 128 (not signed)."""
    weight = torch.zeros(4, requires_grad=True)
    optimizer = AdamW8bit([weight], config(adam_beta1=0.0, adam_beta2=0.0))
    weight.grad = torch.tensor([2.0, -1.0, 0.0, 2e-9])
    optimizer.step(0.1)
    state = optimizer.state(weight)
    codes = {name: state[f"{name}.codes"].tolist() for name in ("exp_avg", "exp_avg_sq")}
    assert state["exp_avg.scales"].tolist() == [2.0]
    assert state["exp_avg_sq.scales"].tolist() == [4.0]
    # -0.5 lies in part 28 of 64 (0.4938 to 0.5078); codes ascend from -1's neighbour, 0 is number 127.
    assert codes["exp_avg"] == [255, 63 - 28, 127, 127]
    # 0.25 lies in part 21 of 128 (0.2477 to 0.2547), the last decade begins at code 127; what is not 0 stays so.
    assert codes["exp_avg_sq"] == [255, 127 + 21, 0, 1]


@pytest.fixture(params=["auto", "torch"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    choose_kernels(request.param)
    yield
    choose_kernels("auto")


@pytest.mark.usefixtures("kernels")
def test_training_in_8_bits_stays_near_training_in_fp32():
    """A least-squares problem with noisy gradients: 200 steps lead as far away as bitsandbytes' 8 bits do (3.5%)."""
    generator = torch.Generator().manual_seed(0)
    aim, noise = torch.randn(40, 30, generator=generator), torch.randn(200, 40, 30, generator=generator)

    def end(step: Callable[[torch.Tensor], Callable[[], object]]) -> torch.Tensor:
        weight = torch.zeros(40, 30, requires_grad=True)
        take_step = step(weight)
        for number in range(200):
            weight.grad = (weight - aim).detach() + 0.3 * noise[number]
            take_step()
        return weight.detach()

    def ours(kind: type[Optimizer]) -> torch.Tensor:
        settings = config(adam_beta1=0.9, adam_beta2=0.99)
        return end(lambda weight: functools.partial(kind([weight], settings).step, 0.01))

    options = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.0, "min_8bit_size": 1}
    reference = end(lambda weight: bitsandbytes.optim.AdamW8bit([weight], **options).step)
    exact = ours(AdamW)
    away, reference_away = ((path - exact).norm() / exact.norm() for path in (ours(AdamW8bit), reference))
    assert away.item() == pytest.approx(reference_away.item(), abs=0.002)
    assert 0 < away < 0.04


def test_the_kernel_and_torch_step_alike_in_8_bits():
    weights = [torch.linspace(-1, 1, 700).requires_grad_() for _ in range(2)]
    states: list[dict[str, torch.Tensor]] = []
    for weight, kernels in zip(weights, ("auto", "torch"), strict=True):
        choose_kernels(kernels)
        optimizer = AdamW8bit([weight], config(weight_decay=0.1))
        for step in range(5):
            weight.grad = torch.sin(torch.arange(700.0) * (step + 1)) * 1e-3
            optimizer.step(0.02)
        states.append(dict(optimizer.state(weight)))
    choose_kernels("auto")
    assert torch.allclose(*weights, rtol=0, atol=1e-6)
    for name in ("exp_avg.codes", "exp_avg_sq.codes"):
        # A rounding may fall to the other side where the last bit differs.
        apart = (states[0][name].int() - states[1][name].int()).abs()
        assert apart.max() <= 1
        assert (apart > 0).float().mean() < 0.01


def test_moments_of_another_optimizer_are_refused():
    weight = torch.ones(3, requires_grad=True)
    weight.grad = torch.ones(3)
    optimizer = AdamW([weight], config())
    optimizer.step(0.1)
    with pytest.raises(ValueError, match="another optimizer"):
        AdamW8bit([weight], config()).restore(weight, optimizer.state(weight))
