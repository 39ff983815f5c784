"""Figures of the report: plain data in, a matplotlib figure out; drawn once into the page and once as a PNG file.

In the page colours come from its style sheet, so that a figure is legible in light and in dark. Colours are Okabe and
Ito's, and no figure tells anything by colour alone.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from hstf.files import atomic_path
from hstf.report.page import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1b2431"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a07400", "#56b4e9")
MARKERS = "osD^vP"
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "hstf", "font.size": 10, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": INK, "grid.alpha": 0.13, "legend.frameon": False, "savefig.transparent": False,
    "axes.titlesize": 10, "lines.linewidth": 1.8, "lines.markersize": 5,
}  # fmt: skip
MOST_CLASSES = 8
MANY_POINTS = 1500
Numbers = Sequence[float | None]


@dataclass(frozen=True)
class Figures:
    """Where the figures of a report lie as PNG files."""

    folder: Path

    def add(self, name: str, title: str, figure: Figure, caption: str) -> Chart:
        """Save ``figure`` as ``<name>.png`` and return it for the page."""
        save_png(figure, self.folder / f"{name}.png")
        return Chart(name, title, as_svg(figure, name), caption, round(figure.get_figwidth() * 96))


def as_svg(figure: Figure, name: str) -> Markup:
    """The figure as inline SVG whose colours are the page's ``currentColor`` and ``--series-n``, its ids unique."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)
    for index, colour in enumerate(SERIES):
        svg = svg.replace(colour, f"var(--series-{index})")
    return Markup(svg)  # noqa: S704 - matplotlib escapes the text in it


def save_png(figure: Figure, target: Path) -> None:
    """The figure as a PNG file on white, 150 dots an inch."""
    with matplotlib.rc_context(STYLE), atomic_path(target) as path:
        figure.savefig(path, format="png", dpi=150, metadata={"Software": None})


def _axes(
    columns: int = 1, width: float = 7.2, height: float = 3.5, **options: Any
) -> tuple[Figure, list["Axes"]]:
    """A figure with ``columns`` panels side by side, at most four in a row."""
    in_row = min(columns, 4)
    rows = -(-columns // in_row)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height * rows), layout="constrained")
        panels = figure.subplots(rows, in_row, squeeze=False, **options).ravel()
    for panel in panels[columns:]:
        panel.set_visible(False)
    return figure, list(panels[:columns])


def _known(values: Numbers) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def dice_by_round(
    rounds: Sequence[int], mean: Numbers, low: Numbers, high: Numbers, classes: Mapping[str, Numbers]
) -> Figure:
    """Mean test Dice with its interval, and each class, over the rounds (0: warm-up)."""
    figure, (axes,) = _axes(width=6.3, height=3.6)
    with matplotlib.rc_context(STYLE):
        if len(classes) > 1:
            for index, (name, values) in enumerate(classes.items()):
                named = len(classes) <= MOST_CLASSES
                colour = SERIES[1 + index % (len(SERIES) - 1)] if named else INK
                axes.plot(
                    rounds, _known(values), color=colour, marker=MARKERS[(1 + index) % len(MARKERS)], linewidth=1.2,
                    alpha=1 if named else 0.35, label=name if named else None,
                )  # fmt: skip
        _band(axes, rounds, _known(mean), _known(low), _known(high))
        axes.set(ylabel="Dice of the test cases", xticks=list(rounds))
        axes.set_xticklabels(["warm-up" if number == 0 else f"round {number}" for number in rounds])
        axes.margins(x=0.08)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _band(axes: "Axes", rounds: Sequence[int], mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    error = np.array([mean - low, high - mean])
    axes.errorbar(
        rounds, mean, np.nan_to_num(error), color=SERIES[0], marker=MARKERS[0], markersize=7, linewidth=2.6,
        capsize=5, elinewidth=1.4, label="mean (95% CI)", zorder=5,
    )  # fmt: skip
    for number, value, top in zip(rounds, mean, np.fmax(mean, high), strict=True):
        if np.isfinite(value):
            axes.annotate(
                f"{value:.3f}", (number, top), (0, 5), textcoords="offset points", color=SERIES[0], weight="bold",
                horizontalalignment="center",
            )  # fmt: skip


def paired_cases(
    names: Sequence[str], before: Sequence[float], after: Sequence[float], labels: tuple[str, str]
) -> Figure:
    """Dice of each test case before and after: above the diagonal is better. The three largest losses are named."""
    figure, (axes,) = _axes(width=4.6, height=4.2)
    x, y = np.array(before, dtype=float), np.array(after, dtype=float)
    better = y >= x
    with matplotlib.rc_context(STYLE):
        low = max(0.0, min(x.min(), y.min()) - 0.03)
        high = min(1.0, max(x.max(), y.max()) + 0.02)
        axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle="--")
        for chosen, colour, marker, text in (
            (better, SERIES[0], "o", "better or equal"), (~better, SERIES[1], "v", "worse"),
        ):  # fmt: skip
            axes.scatter(
                x[chosen], y[chosen], color=colour, marker=marker, alpha=0.75, label=f"{text}: {int(chosen.sum())}",
                rasterized=len(x) > MANY_POINTS,
            )  # fmt: skip
        for index in np.argsort(y - x)[:3]:
            if y[index] < x[index]:
                axes.annotate(
                    names[index], (x[index], y[index]), (6, -10), textcoords="offset points", fontsize=8
                )
        axes.set(xlabel=f"Dice, {labels[0]}", ylabel=f"Dice, {labels[1]}", xlim=(low, high), ylim=(low, high))
        axes.set_aspect("equal")
        axes.legend(loc="upper left")
    return figure


def training_curves(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]) -> Figure:
    """Curves over training steps: a panel for each ``panels`` key (a loss term), a line for each member."""
    figure, all_axes = _axes(len(panels), width=min(10.0, 2.0 + 3.2 * len(panels)), height=2.9)
    with matplotlib.rc_context(STYLE):
        for axes, (title, members) in zip(all_axes, panels.items(), strict=True):
            for index, (member, (steps, values)) in enumerate(members.items()):
                style = ("-", "--", ":", "-.")[index // len(SERIES) % 4]
                axes.plot(
                    steps,
                    values,
                    color=SERIES[index % len(SERIES)],
                    linestyle=style,
                    label=member,
                    linewidth=1.4,
                )
            axes.set(title=title, xlabel="step")
        all_axes[0].legend(fontsize=8)
    return figure


def calibration_error(before: Mapping[str, float], after: Mapping[str, float]) -> Figure:
    """Expected calibration error of each class before and after the temperature; 0: confidence means what it says."""
    figure, (axes,) = _axes(width=6.0, height=1.1 + 0.4 * len(after))
    rows = range(len(after))
    with matplotlib.rc_context(STYLE):
        axes.hlines(rows, list(before.values()), list(after.values()), color=INK, alpha=0.4, linewidth=2)
        axes.scatter(list(before.values()), rows, color=SERIES[1], marker="s", label="as predicted", zorder=3)
        axes.scatter(list(after.values()), rows, color=SERIES[0], marker="o", label="calibrated", zorder=3)
        axes.set_yticks(rows, list(after))
        axes.set(xlabel="expected calibration error (0 is best)", ylim=(len(after) - 0.5, -0.5))
        axes.set_xlim(left=0)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def predicted_against_true(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Predicted (x) and true (y) Dice of cases, by group (a round, say)."""
    figure, (axes,) = _axes(width=5.0, height=4.4)
    with matplotlib.rc_context(STYLE):
        lowest = min(min(*x, *y) for x, y in groups.values())
        low = max(0.0, lowest - 0.03)
        axes.plot([low, 1], [low, 1], color=INK, linewidth=1, linestyle="--")
        for index, (name, (predicted, true)) in enumerate(groups.items()):
            axes.scatter(
                predicted, true, color=SERIES[index % len(SERIES)], marker=MARKERS[index % len(MARKERS)], alpha=0.7,
                label=name, rasterized=len(predicted) > MANY_POINTS,
            )  # fmt: skip
        axes.set(xlabel="predicted Dice", ylabel="true Dice", xlim=(low, 1.01), ylim=(low, 1.01))
        axes.set_aspect("equal")
        axes.legend(loc="upper left")
    return figure


def predicted_dice(rounds: Mapping[int, Sequence[float]], bounds: Mapping[int, float | None]) -> Figure:
    """How predicted Dice is spread in each round, and the bound below which a pseudo-label is rejected."""
    figure, (axes,) = _axes(height=1.2 + 0.55 * len(rounds))
    generator = np.random.default_rng(0)
    with matplotlib.rc_context(STYLE):
        for row, (number, dice) in enumerate(rounds.items()):
            height = row + generator.uniform(-0.22, 0.22, len(dice))
            many = len(dice) > MANY_POINTS
            axes.scatter(dice, height, color=SERIES[0], alpha=0.45, s=16, linewidths=0, rasterized=many)
            axes.vlines(
                np.median(dice),
                row - 0.32,
                row + 0.32,
                color=INK,
                linewidth=2,
                label="" if row else "median",
            )
            if (bound := bounds.get(number)) is not None:
                label = "" if row else "rejected below"
                axes.vlines(bound, row - 0.5, row + 0.5, color=SERIES[1], linestyle="--", label=label)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
        axes.set(xlabel="predicted Dice of a pseudo-label", ylim=(len(rounds) - 0.5, -0.5))
        axes.set_yticks(range(len(rounds)), [f"round {number}" for number in rounds])
    return figure
