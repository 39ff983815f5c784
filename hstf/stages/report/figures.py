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

from hstf.runtime.files import atomic_path
from hstf.scoring.lesion_detection import FROC_RATES
from hstf.stages.report.page import Chart

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
SMALL_CHANGE = 0.02
"""Half of the least range of an axis of shares: what is no change shall not look like one."""
Numbers = Sequence[float | None]
Points = tuple[list[float], list[float]]
"""Horizontal and vertical positions."""


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
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
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
    rounds: Sequence[int],
    mean: Numbers,
    low: Numbers,
    high: Numbers,
    classes: Mapping[str, Numbers],
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
        means = ["" if value is None else f"\n{value:.3f}" for value in mean]
        axes.set_xticklabels([f"{_round(n)}{text}" for n, text in zip(rounds, means, strict=True)])
        axes.margins(x=0.08)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _band(
    axes: "Axes", rounds: Sequence[int], mean: np.ndarray, low: np.ndarray, high: np.ndarray
) -> None:
    error = np.array([mean - low, high - mean])
    axes.errorbar(
        rounds, mean, np.nan_to_num(error), color=SERIES[0], marker=MARKERS[0], markersize=7, linewidth=2.6,
        capsize=5, elinewidth=1.4, label="mean (95% CI)", zorder=5,
    )  # fmt: skip


def _round(number: int) -> str:
    return f"round {number}" if number else "warm-up"


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
                    names[index],
                    (x[index], y[index]),
                    (6, -10),
                    textcoords="offset points",
                    fontsize=8,
                )
        axes.set(
            xlabel=f"Dice, {labels[0]}",
            ylabel=f"Dice, {labels[1]}",
            xlim=(low, high),
            ylim=(low, high),
        )
        axes.set_aspect("equal")
        _legend_above(axes)
    return figure


def _legend_above(axes: "Axes", columns: int = 2) -> None:
    """The legend over the axes, where no mark is."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        handletextpad=0.3,
    )


def training_curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
) -> Figure:
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
        longest = max(all_axes, key=lambda axes: len(axes.lines))
        figure.legend(handles=longest.lines, loc="outside upper left", ncols=8, fontsize=9)
    return figure


def calibration_error(before: Mapping[str, float], after: Mapping[str, float]) -> Figure:
    """Expected calibration error of each class before and after the temperature; 0: confidence means what it says."""
    figure, (axes,) = _axes(width=6.0, height=1.1 + 0.4 * len(after))
    rows = range(len(after))
    with matplotlib.rc_context(STYLE):
        axes.hlines(
            rows, list(before.values()), list(after.values()), color=INK, alpha=0.4, linewidth=2
        )
        axes.scatter(
            list(before.values()), rows, color=SERIES[1], marker="s", label="as predicted", zorder=3
        )
        axes.scatter(
            list(after.values()), rows, color=SERIES[0], marker="o", label="calibrated", zorder=3
        )
        axes.set_yticks(rows, list(after))
        axes.set(xlabel="expected calibration error (0 is best)", ylim=(len(after) - 0.5, -0.5))
        axes.set_xlim(left=0)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def predicted_against_true(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Predicted (x) and true (y) Dice of cases: a panel for each group (a round, say)."""
    figure, panels = _axes(len(groups), width=1.4 + 3.4 * min(len(groups), 3), height=4.0)
    values = [value for pair in groups.values() for side in pair for value in side]
    low, high = max(0.0, min(values) - 0.03), min(1.01, max(values) + 0.03)
    with matplotlib.rc_context(STYLE):
        for index, (axes, (name, (predicted, true))) in enumerate(
            zip(panels, groups.items(), strict=True)
        ):
            axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle="--")
            many = len(predicted) > MANY_POINTS
            axes.scatter(predicted, true, alpha=0.6, rasterized=many, **_look(index))
            axes.set(
                title=name,
                xlabel="predicted Dice",
                ylabel="true Dice",
                xlim=(low, high),
                ylim=(low, high),
            )
            axes.set_aspect("equal")
    return figure


def predicted_dice(
    rounds: Mapping[int, Sequence[float]], bounds: Mapping[int, float | None]
) -> Figure:
    """How predicted Dice is spread in each round, and the bound below which a pseudo-label is rejected."""
    figure, (axes,) = _axes(height=1.2 + 0.55 * len(rounds))
    generator = np.random.default_rng(0)
    with matplotlib.rc_context(STYLE):
        for row, (number, dice) in enumerate(rounds.items()):
            height = row + generator.uniform(-0.22, 0.22, len(dice))
            many = len(dice) > MANY_POINTS
            axes.scatter(
                dice, height, color=SERIES[0], alpha=0.45, s=16, linewidths=0, rasterized=many
            )
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
                axes.vlines(
                    bound, row - 0.5, row + 0.5, color=SERIES[1], linestyle="--", label=label
                )
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
        axes.set(xlabel="predicted Dice of a pseudo-label", ylim=(len(rounds) - 0.5, -0.5))
        axes.set_yticks(range(len(rounds)), [f"round {number}" for number in rounds])
    return figure


def reliability(classes: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Share of right voxels (y) against confidence (x), for each class: on the diagonal confidence means what it says."""
    figure, (axes,) = _axes(width=4.9, height=4.4)
    with matplotlib.rc_context(STYLE):
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--")
        for index, (name, (confidence, accuracy)) in enumerate(classes.items()):
            axes.plot(confidence, accuracy, label=name, linewidth=1.3, **_look(index))
        axes.set(
            xlabel="confidence",
            ylabel="share of voxels that are right",
            xlim=(0, 1.02),
            ylim=(0, 1.02),
        )
        axes.set_aspect("equal")
        _legend_above(axes)
    return figure


def _look(index: int) -> dict[str, Any]:
    """Colour and marker of a series."""
    return {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}


def risk_coverage(
    rounds: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]],
) -> Figure:
    """Share of wrong voxels (y) among those kept (x, as a share of all), by round; the last of each: the kept half.

    Args:
        rounds: coverage, error and least weight (0..1) of each point.
    """
    figure, (axes,) = _axes(width=5.4, height=3.6)
    with matplotlib.rc_context(STYLE):
        for index, (name, (coverage, error, weight)) in enumerate(rounds.items()):
            axes.plot(coverage, error, label=name, linewidth=1.5, color=SERIES[index % len(SERIES)])
            half = int(np.argmin(np.abs(np.array(weight) - 0.5)))
            axes.scatter(
                coverage[half : half + 1], error[half : half + 1], zorder=3, **_look(index)
            )
        axes.set(
            xlabel="share of the foreground voxels kept",
            ylabel="share of them wrong",
            xlim=(0, 1.02),
        )
        axes.set_ylim(bottom=0)
        _legend_above(axes, columns=3)
    return figure


def by_round(panels: Mapping[str, Mapping[str, Mapping[int, float | None]]]) -> Figure:
    """Numbers over the rounds: a panel for each key, a line for each series, dashed from the second on."""
    figure, all_axes = _axes(len(panels), width=min(10.0, 1.2 + 3.5 * len(panels)), height=3.3)
    with matplotlib.rc_context(STYLE):
        for axes, (title, series) in zip(all_axes, panels.items(), strict=True):
            numbers = sorted({number for values in series.values() for number in values})
            for index, (name, values) in enumerate(series.items()):
                line = _known([values.get(number) for number in numbers])
                if np.isfinite(line).any():
                    axes.plot(
                        numbers, line, label=name, linestyle="--" if index else "-", **_look(index)
                    )
            axes.set(ylabel=title, xticks=numbers)
            middle, half = np.mean(axes.get_ylim()), np.ptp(axes.get_ylim()) / 2
            axes.set_ylim(middle - max(half, SMALL_CHANGE), middle + max(half, SMALL_CHANGE))
            axes.set_xticklabels([_round(number) for number in numbers])
            axes.margins(x=0.15)
            _legend_above(axes, columns=3)
    return figure


def froc(panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> Figure:
    """Sensitivity against false positives per scan: a panel for each class, a staircase for each round.

    Args:
        panels: corners of each staircase, false positives per scan and sensitivity first.
    """
    figure, all_axes = _axes(len(panels), width=min(10.0, 1.6 + 3.6 * len(panels)), height=3.4)
    with matplotlib.rc_context(STYLE):
        for axes, (title, rounds) in zip(all_axes, panels.items(), strict=True):
            for index, (name, points) in enumerate(rounds.items()):
                x, y = np.array([(0.0, 0.0), *((p[0], p[1]) for p in points)]).T
                axes.plot(
                    x, y, drawstyle="steps-post", label=name, color=SERIES[index % len(SERIES)]
                )
                axes.scatter(x[-1:], y[-1:], zorder=3, **_look(index))
            axes.set_xscale("symlog", linthresh=FROC_RATES[0], base=2)
            axes.set_xlim(0, max(axes.get_xlim()[1], FROC_RATES[-1]))
            axes.set_xticks([0, *FROC_RATES], [f"{rate:g}" for rate in (0, *FROC_RATES)])
            axes.set(
                xlabel="false positives per scan", ylabel=f"{title}: share found", ylim=(0, 1.03)
            )
            _legend_above(axes, columns=3)
    return figure


def unzip(pairs: Sequence[tuple[float, float]]) -> Points:
    """First and second members of ``pairs``."""
    return [first for first, _ in pairs], [second for _, second in pairs]
