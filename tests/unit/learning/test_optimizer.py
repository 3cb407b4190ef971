"""AdamW and its learning rate, by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from groat.config.tree import TrainingConfig
from groat.learning.optimizer import AdamW, learning_rate


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
    assert {name: state.tolist() for name, state in optimizer.state[weight].items()} == {
        "step": 0,
        "exp_avg": [0, 0, 0],
        "exp_avg_sq": [0, 0, 0],
    }
    weight.grad = torch.tensor([1.0, -2.0, 3.0])
    optimizer.step(0.1)
    before = {name: state.clone() for name, state in optimizer.state[weight].items()}
    optimizer.make_room()
    assert all(torch.equal(before[name], state) for name, state in optimizer.state[weight].items())
