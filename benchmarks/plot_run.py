"""Draw a run's learning curve (SVG). Arguments: run folder, output file. Needs matplotlib."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from groat.tracking.store import RunStore

run, output = Path(sys.argv[1]), Path(sys.argv[2])
with RunStore.read(run / "run.sqlite") as reader:
    steps, shares = zip(*reader.metrics("rewards/correct_answer/mean"), strict=True)
    evaluations = reader.evaluations()

plt.rcParams.update({"svg.hashsalt": "groat", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.plot(steps, [100 * share for share in shares], color="0.6", linewidth=1.2, label="right while training")
for name, color in (("greedy", "#b5651d"), ("avg@4", "#1f6f8b")):
    points = [(step, figures[name]) for step, figures in sorted(evaluations.items())]
    axes.errorbar(
        [step for step, _ in points],
        [100 * e.value for _, e in points],
        yerr=[[100 * (e.value - e.low) for _, e in points], [100 * (e.high - e.value) for _, e in points]],
        color=color, marker="o", capsize=4, linestyle="--", linewidth=1, label=f"held out, {name}",
    )  # fmt: skip
axes.set(xlabel="step (64 answers)", ylabel="right answers, %", ylim=(0, 100))
axes.legend(frameon=False, loc="upper left", fontsize=9)
figure.savefig(output, metadata={"Date": None})
