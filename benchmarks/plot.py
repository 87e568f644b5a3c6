"""The plot of a run: rates of both libraries beside the limits, and how many times a plain save a save takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

if TYPE_CHECKING:
    from benchmarks.report import Line

_OURS, _PEER, _LIMIT = "#1b6e5a", "#c9a227", "#8a8a8a"


def draw(lines: list[Line], limits: list[tuple[str, float]], path: Path) -> None:
    """Write the plot as SVG."""
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 9})
    rates = [line for line in lines if line.name.endswith(("changes/s", "rows/s"))]
    saves = [line for line in lines if "times a plain save (median)" in line.name]
    heights = [len(rates) * 2 + len(limits), len(saves) * 2]
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(9, 0.22 * sum(heights) + 2), height_ratios=heights, layout="constrained"
    )
    _rates(above, rates, limits)
    _saves(below, saves)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _rates(axes: Any, rates: list[Line], limits: list[tuple[str, float]]) -> None:
    position, ticks, names = 0.0, [], []
    for line in rates:
        ticks.append(position + 0.4)
        names.append(line.name)
        _bar(axes, position, line.ours, _OURS, "{:,.0f}")
        _bar(axes, position + 0.8, line.peer, _PEER, "{:,.0f}")
        position += 2
    for name, value in limits:
        ticks.append(position)
        names.append(name)
        _bar(axes, position, value, _LIMIT, "{:,.0f}")
        position += 1
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 2)
    axes.set_title("a second, more is better (logarithmic)")
    _finish(axes, ticks, names)


def _saves(axes: Any, saves: list[Line]) -> None:
    ticks, names = [], []
    for number, line in enumerate(saves):
        ticks.append(number * 2 + 0.4)
        names.append(line.name.split(":")[0])
        _bar(axes, number * 2, line.ours, _OURS, "{:.2f}")
        _bar(axes, number * 2 + 0.8, line.peer, _PEER, "{:.2f}")
    axes.axvline(1, color=_LIMIT, linewidth=1)
    axes.set_title("times a plain save (median), less is better")
    _finish(axes, ticks, names)


def _bar(axes: Any, position: float, value: float | None, color: str, text: str) -> None:
    if value:
        axes.barh(position, value, height=0.75, color=color)
        axes.text(value, position, " " + text.format(value), va="center", fontsize=7)


def _finish(axes: Any, ticks: list[float], names: list[str]) -> None:
    axes.set_yticks(ticks, names)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=color) for color in (_OURS, _PEER, _LIMIT)]
    axes.legend(handles, ["django-cqrs-celery", "django-cqrs 3.1.0", "limit"], loc="lower right", fontsize=7)
