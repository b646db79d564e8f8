"""Draws a PNG of each scenario: ``python -P plot.py RESULTS.json FOLDER``. Knows matplotlib and nothing of pgfleet."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, LIMIT, OTHERS = "#1f6f8b", "#b0b0b0", "#d98841"


def colour(who: str) -> str:
    return LIMIT if who.startswith("the limit") else OURS if who.startswith("pgfleet") else OTHERS


def bars(axes, chart) -> None:
    names = list(chart["values"])
    middles = [median(values) for values in chart["values"].values()]
    lows = [m - min(v) for m, v in zip(middles, chart["values"].values(), strict=True)]
    highs = [max(v) - m for m, v in zip(middles, chart["values"].values(), strict=True)]
    ours = any(name.startswith("pgfleet") for name in names)
    places = range(len(names))
    axes.barh(
        places, middles, xerr=[lows, highs], color=[colour(name) if ours else OURS for name in names],
        error_kw={"elinewidth": 1, "capsize": 2},
    )  # fmt: skip
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel(chart["unit"])
    if chart.get("log"):
        axes.set_xscale("log")
    for place, value, high in zip(places, middles, highs, strict=True):
        text = f" {value:,.0f}" if abs(value) >= 100 else f" {value:.3g}"
        axes.text(value + high, place, text, va="center", fontsize=7)
    axes.margins(x=0.15)


def lines(axes, chart) -> None:
    for name, points in chart["values"].items():
        width = 2 if name.startswith("pgfleet") else 1
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, linewidth=width)
    axes.set_xlabel(chart["x"])
    axes.set_ylabel(chart["unit"])
    if chart.get("log"):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    if len(chart["values"]) > 1:
        axes.legend(fontsize=6)


def draw(name: str, charts: list, target: Path) -> None:
    charts = [chart for chart in charts if chart["values"]]
    if not charts:
        return
    heights = [1.0 + 0.28 * len(chart["values"]) if chart["kind"] == "bars" else 2.8 for chart in charts]
    figure, all_axes = plt.subplots(
        len(charts), 1, figsize=(8, sum(heights) + 0.4), layout="constrained", height_ratios=heights, squeeze=False
    )
    for axes, chart in zip(all_axes[:, 0], charts, strict=True):
        axes.set_title(chart["title"], fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        (bars if chart["kind"] == "bars" else lines)(axes, chart)
    figure.suptitle(name, fontsize=11)
    figure.savefig(target, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    report, folder = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for scenario, result in report["scenarios"].items():
        draw(scenario, result["charts"], folder / f"{scenario}.png")
