"""Draw the curves of `time_to_accuracy` (SVG). Arguments: file of results, output file. Needs matplotlib."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

source, output = Path(sys.argv[1]), Path(sys.argv[2])
data = json.loads(source.read_text())
figure_name, target = data["summary"]["figure"], data["summary"]["target"]

plt.rcParams.update({"svg.hashsalt": "groat", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.axhline(100 * target, color="0.8", linewidth=1)
for (side, entry), color in zip(data["sides"].items(), ("#1f6f8b", "#b5651d"), strict=False):
    points = [(point["seconds"] / 60, point["figures"][figure_name]) for point in entry["curve"]]
    below, above = zip(
        *((100 * (e["value"] - e["low"]), 100 * (e["high"] - e["value"])) for _, e in points), strict=True
    )
    axes.errorbar(
        [minutes for minutes, _ in points], [100 * e["value"] for _, e in points], yerr=[below, above],
        color=color, marker="o", markersize=4, capsize=3, linewidth=1.2, label=side,
    )  # fmt: skip
axes.set(
    xlabel="minutes of training", ylabel=f"right answers, held out, %\n({figure_name})", xlim=(0, None), ylim=(0, 100)
)
axes.legend(frameon=False, loc="lower right", fontsize=9)
figure.savefig(output, metadata={"Date": None})
