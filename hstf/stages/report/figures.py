"""Figures of the report, and the style of all figures.

Each function takes plain numbers and returns a matplotlib figure. A figure is drawn once into the
page and once as a PNG file. Its colours in the page come from the style sheet, so that it is
legible on a light and on a dark background. The colours are those of Okabe and Ito, which
colour-blind people can distinguish. Markers and line styles carry the same information.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hstf.runtime.files import atomic_path
from hstf.scoring.lesion_detection import FROC_RATES
from hstf.stages.report.page import Chart, round_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1b2431"
"""Colour of text and axes; the page replaces it by its own."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a07400", "#56b4e9")
"""Colours of series; the page replaces them by its own."""
MARKERS = "osD^vP"
LINES = ("-", "--", ":", "-.")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hstf",
    "font.size": 10,
    "text.parse_math": False,  # names of classes may have dollars
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "legend.frameon": False,
    "savefig.transparent": False,
    "axes.titlesize": 10,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}
PIXELS_PER_INCH = 96
"""Of the page."""
PNG_DPI = 150
PANELS_IN_ROW = 4
MAXIMUM_NAMED_CLASSES = 8
"""With more classes, the figure of the rounds draws their lines without names."""
MAXIMUM_NAMED_CURVES = 2 * len(SERIES)
"""With more classes, the reliability diagram draws their curves without names."""
ROUND_WIDTH = 0.68
"""Width (inches) that the name of a round needs on an axis."""
MANY_POINTS = 1500
"""From this number on, points are drawn as an image: a page of vector points would be slow."""
MINIMUM_RANGE = 0.04
"""Minimum range of an axis of fractions, so that a change without meaning does not look large."""
FRACTION_MARGIN = 0.02
"""How far an axis of fractions goes beyond 0 and 1, so that markers are not cut."""
MAXIMUM_NAME = 24
"""Number of characters of the name of a case in a figure."""
NAMED_LOSSES = 3
"""Number of test cases whose loss is named."""

Numbers = Sequence[float | None]
Points = tuple[list[float], list[float]]
"""Horizontal and vertical positions."""
Parameters = ParamSpec("Parameters")
Draw = Callable[Parameters, Figure]


def styled(draw: Draw[Parameters]) -> Draw[Parameters]:
    """Make a function draw in the style of the report."""

    @wraps(draw)
    def draw_in_style(*args: Parameters.args, **options: Parameters.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **options)

    return draw_in_style


@dataclass(frozen=True)
class Figures:
    """The folder in which the figures of a page are stored as PNG files."""

    folder: Path

    def add(
        self,
        name: str,
        title: str,
        figure: Figure,
        caption: str,
    ) -> Chart:
        """Save a figure as ``<name>.png`` and return it for the page."""
        save_png(figure, self.folder / f"{name}.png")
        width = round(figure.get_figwidth() * PIXELS_PER_INCH)
        return Chart(name, title, as_svg(figure, name), caption, width)


def as_svg(figure: Figure, name: str) -> Markup:
    """Convert a figure to inline SVG.

    Args:
        figure: the figure.
        name: prefix of the ids in the SVG, which must be unique in the page.

    Returns:
        SVG whose colours are ``currentColor`` and the variables ``--series-<n>`` of the page.
    """
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None}
    with matplotlib.rc_context(STYLE):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=metadata,
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    for index, colour in enumerate(SERIES):
        svg = svg.replace(colour, f"var(--series-{index})")
    return Markup(svg)  # noqa: S704 - matplotlib escapes the text in it


def save_png(figure: Figure, target: Path) -> None:
    """Save a figure as a PNG file on a white background."""
    with matplotlib.rc_context(STYLE), atomic_path(target) as path:
        figure.savefig(
            path,
            format="png",
            dpi=PNG_DPI,
            metadata={"Software": None},
        )


def make_panels(
    number: int,
    width: float,
    height: float,
) -> tuple[Figure, list["Axes"]]:
    """Make a figure with ``number`` panels side by side.

    Args:
        number: number of panels.
        width: width of the figure (inches).
        height: height of a row of panels (inches).
    """
    columns = min(number, PANELS_IN_ROW)
    rows = -(-number // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    panels = figure.subplots(
        rows,
        columns,
        squeeze=False,
    ).ravel()
    for panel in panels[number:]:
        panel.set_visible(False)
    return figure, list(panels[:number])


def make_axes(width: float, height: float) -> tuple[Figure, "Axes"]:
    """Make a figure with one panel of a size in inches."""
    figure, panels = make_panels(1, width, height)
    return figure, panels[0]


def series_look(index: int) -> dict[str, Any]:
    """Return colour and marker of a series."""
    colour = SERIES[index % len(SERIES)]
    marker = MARKERS[index % len(MARKERS)]
    return {"color": colour, "marker": marker}


def draw_diagonal(
    axes: "Axes",
    low: float,
    high: float,
) -> None:
    """Draw the line on which both axes have the same value, and make the axes equal."""
    axes.plot(
        [low, high],
        [low, high],
        color=INK,
        linewidth=1,
        linestyle="--",
    )
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")


def set_rounds(
    axes: "Axes",
    numbers: Sequence[int],
    notes: Sequence[str] = (),
) -> None:
    """Make the horizontal axis one of rounds.

    Args:
        axes: the axes.
        numbers: the rounds; 0 is the warm-up.
        notes: a second line below each round.
    """
    labels = [round_name(number) for number in numbers]
    if notes:
        labels = [
            f"{label}\n{note}"
            for label, note in zip(
                labels,
                notes,
                strict=True,
            )
        ]
    axes.set_xticks(list(numbers), labels)


def legend_above(axes: "Axes", columns: int = 2) -> None:
    """Put the legend above the axes, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        handletextpad=0.3,
    )


def legend_right(axes: "Axes") -> None:
    """Put the legend to the right of the axes."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def unzip(pairs: Sequence[tuple[float, float]]) -> Points:
    """Return the first and the second numbers of pairs."""
    first = [pair[0] for pair in pairs]
    second = [pair[1] for pair in pairs]
    return first, second


def _array(values: Numbers) -> np.ndarray:
    """Convert numbers to an array; None becomes NaN."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)


@styled
def dice_by_round(
    rounds: Sequence[int],
    mean: Numbers,
    low: Numbers,
    high: Numbers,
    classes: Mapping[str, Numbers],
) -> Figure:
    """Draw the mean test Dice with its interval, and the Dice of each class, by round."""
    figure, axes = make_axes(max(6.3, 2.4 + ROUND_WIDTH * len(rounds)), 3.6)
    means = _array(mean)
    errors = np.nan_to_num(np.array([means - _array(low), _array(high) - means]))
    axes.errorbar(
        rounds,
        means,
        errors,
        color=SERIES[0],
        marker=MARKERS[0],
        markersize=7,
        linewidth=2.6,
        capsize=5,
        elinewidth=1.4,
        label="mean (95% CI)",
        zorder=5,
    )
    if len(classes) > 1:
        _draw_classes(axes, rounds, classes)
    axes.set_ylabel("Dice of the test cases")
    set_rounds(axes, rounds, ["" if value is None else f"{value:.3f}" for value in mean])
    axes.margins(x=0.08)
    legend_right(axes)
    return figure


def _draw_classes(
    axes: "Axes",
    rounds: Sequence[int],
    classes: Mapping[str, Numbers],
) -> None:
    """Draw a line for each class; lines of many classes have no names."""
    is_named = len(classes) <= MAXIMUM_NAMED_CLASSES
    for index, (name, values) in enumerate(classes.items()):
        # The first colour is that of the mean.
        colour = SERIES[1 + index % (len(SERIES) - 1)]
        axes.plot(
            rounds,
            _array(values),
            color=colour if is_named else INK,
            marker=MARKERS[(1 + index) % len(MARKERS)],
            linewidth=1.2,
            alpha=1 if is_named else 0.35,
            label=name if is_named else None,
        )


@styled
def paired_cases(
    names: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    labels: tuple[str, str],
) -> Figure:
    """Draw the Dice of each test case before and after."""
    figure, axes = make_axes(4.6, 4.2)
    x = np.array(before, dtype=float)
    y = np.array(after, dtype=float)
    low = max(0.0, min(x.min(), y.min()) - 0.03)
    high = min(1.0, max(x.max(), y.max()) + 0.02)
    draw_diagonal(axes, low, high)
    is_better = y >= x
    _draw_group(axes, x[is_better], y[is_better], SERIES[0], "o", "better or equal")
    _draw_group(axes, x[~is_better], y[~is_better], SERIES[1], "v", "worse")
    for index in np.argsort(y - x)[:NAMED_LOSSES]:
        if y[index] < x[index]:
            is_right = x[index] > (low + high) / 2
            name = axes.annotate(
                _short_name(names[index]),
                (x[index], y[index]),
                (-6 if is_right else 6, -10),
                textcoords="offset points",
                fontsize=8,
                horizontalalignment="right" if is_right else "left",
            )
            # A long name must not shrink the axes.
            name.set_in_layout(False)
    axes.set_xlabel(f"Dice, {labels[0]}")
    axes.set_ylabel(f"Dice, {labels[1]}")
    legend_above(axes)
    return figure


def _short_name(name: str) -> str:
    """Leave out the middle of a long name."""
    if len(name) <= MAXIMUM_NAME:
        return name
    half = MAXIMUM_NAME // 2
    return f"{name[:half]}…{name[-half:]}"


def _draw_group(
    axes: "Axes",
    x: np.ndarray,
    y: np.ndarray,
    colour: str,
    marker: str,
    name: str,
) -> None:
    axes.scatter(
        x,
        y,
        color=colour,
        marker=marker,
        alpha=0.75,
        label=f"{name}: {len(x)}",
        rasterized=len(x) > MANY_POINTS,
    )


@styled
def training_curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
) -> Figure:
    """Draw curves over training steps.

    Args:
        panels: for each panel (a term of the loss) the steps and values of each line.
    """
    width = min(10.0, 2.0 + 3.2 * len(panels))
    figure, all_axes = make_panels(len(panels), width, 2.9)
    numbers = _line_numbers(panels)
    handles: dict[str, Line2D] = {}
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
        for name, (steps, values) in lines.items():
            number = numbers[name]
            [handles[name]] = axes.plot(
                steps,
                values,
                color=SERIES[number % len(SERIES)],
                linestyle=LINES[number // len(SERIES) % len(LINES)],
                label=name,
                linewidth=1.4,
            )
        axes.set_title(title)
        axes.set_xlabel("step")
    entry = 0.55 + 0.08 * max(len(name) for name in numbers)
    figure.legend(
        handles=[handles[name] for name in numbers],
        loc="outside upper left",
        ncols=max(1, int(width / entry)),
        fontsize=9,
    )
    return figure


def _line_numbers(panels: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Number the names of all lines: a name has one colour, in whichever panels it is drawn."""
    names = [name for lines in panels.values() for name in lines]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


@styled
def calibration_error(before: Mapping[str, float], after: Mapping[str, float]) -> Figure:
    """Draw the expected calibration error of each class before and after temperature scaling."""
    figure, axes = make_axes(6.0, 1.1 + 0.4 * len(after))
    rows = range(len(after))
    old = list(before.values())
    new = list(after.values())
    axes.hlines(
        rows,
        old,
        new,
        color=INK,
        alpha=0.4,
        linewidth=2,
    )
    axes.scatter(
        old,
        rows,
        color=SERIES[1],
        marker="s",
        label="as predicted",
        zorder=3,
    )
    axes.scatter(
        new,
        rows,
        color=SERIES[0],
        marker="o",
        label="calibrated",
        zorder=3,
    )
    axes.set_yticks(rows, list(after))
    axes.set_xlabel("expected calibration error (0 is best)")
    axes.set_ylim(len(after) - 0.5, -0.5)
    axes.set_xlim(left=0)
    legend_right(axes)
    return figure


@styled
def predicted_against_true(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Draw predicted (x) and true (y) Dice of cases, a panel for each group."""
    width = 1.4 + 3.4 * min(len(groups), PANELS_IN_ROW)
    figure, panels = make_panels(len(groups), width, 4.0)
    values = np.concatenate([np.concatenate(pair) for pair in groups.values()])
    low = max(0.0, values.min() - 0.03)
    high = min(1.01, values.max() + 0.03)
    for index, (name, (predicted, true)) in enumerate(groups.items()):
        axes = panels[index]
        draw_diagonal(axes, low, high)
        many = len(predicted) > MANY_POINTS
        axes.scatter(
            predicted,
            true,
            alpha=0.6,
            rasterized=many,
            **series_look(index),
        )
        axes.set_title(name)
        axes.set_xlabel("predicted Dice")
        axes.set_ylabel("true Dice")
    return figure


@styled
def predicted_dice(
    rounds: Mapping[int, Sequence[float]], bounds: Mapping[int, float | None]
) -> Figure:
    """Draw the predicted Dice of the pseudo-labels of each round.

    Args:
        rounds: predicted Dice of each pseudo-label, by round.
        bounds: the predicted Dice below which a pseudo-label is rejected; None if all are used.
    """
    figure, axes = make_axes(7.2, 1.2 + 0.55 * len(rounds))
    generator = np.random.default_rng(0)
    for row, (number, dice) in enumerate(rounds.items()):
        height = row + generator.uniform(-0.22, 0.22, len(dice))
        many = len(dice) > MANY_POINTS
        axes.scatter(
            dice,
            height,
            color=SERIES[0],
            alpha=0.45,
            s=16,
            linewidths=0,
            rasterized=many,
        )
        median = np.median(dice)
        label = "" if row else "median"
        axes.vlines(
            median,
            row - 0.32,
            row + 0.32,
            color=INK,
            linewidth=2,
            label=label,
        )
        bound = bounds.get(number)
        if bound is not None:
            label = "" if row else "rejected below"
            axes.vlines(
                bound,
                row - 0.5,
                row + 0.5,
                color=SERIES[1],
                linestyle="--",
                label=label,
            )
    legend_above(axes)
    axes.set_xlabel("predicted Dice of a pseudo-label")
    axes.set_ylim(len(rounds) - 0.5, -0.5)
    axes.set_yticks(range(len(rounds)), [round_name(number) for number in rounds])
    return figure


@styled
def reliability(classes: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Draw the fraction of correct voxels (y) by confidence (x), a line for each class."""
    figure, axes = make_axes(4.9, 4.4)
    draw_diagonal(axes, 0, 1.02)
    is_named = len(classes) <= MAXIMUM_NAMED_CURVES
    for index, (name, (confidence, accuracy)) in enumerate(classes.items()):
        look = series_look(index) if is_named else {"color": INK, "alpha": 0.35}
        axes.plot(
            confidence,
            accuracy,
            label=name if is_named else None,
            linewidth=1.3,
            linestyle=LINES[index // len(SERIES) % len(LINES)],
            **look,
        )
    axes.set_xlabel("confidence")
    axes.set_ylabel("fraction of correct voxels")
    if is_named:
        legend_above(axes)
    return figure


@styled
def risk_coverage(
    rounds: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]],
) -> Figure:
    """Draw the fraction of wrong voxels (y) among the voxels of the highest weights (x).

    Args:
        rounds: coverage, error and minimum weight (0 to 1) of each point. The marker is at a weight
            of 0.5.
    """
    figure, axes = make_axes(5.4, 3.6)
    for index, (name, (coverage, error, weight)) in enumerate(rounds.items()):
        colour = SERIES[index % len(SERIES)]
        axes.plot(
            coverage,
            error,
            label=name,
            linewidth=1.5,
            color=colour,
        )
        half = int(np.argmin(np.abs(np.array(weight) - 0.5)))
        axes.scatter(
            coverage[half],
            error[half],
            zorder=3,
            **series_look(index),
        )
    axes.set_xlabel("fraction of the foreground voxels")
    axes.set_ylabel("fraction of them that is wrong")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    legend_above(axes, columns=3)
    return figure


@styled
def by_round(panels: Mapping[str, Mapping[str, Mapping[int, float | None]]]) -> Figure:
    """Draw fractions by round.

    Args:
        panels: for each panel the lines, and for each line its value in each round.
    """
    columns = min(len(panels), PANELS_IN_ROW)
    rounds = {number for lines in panels.values() for values in lines.values() for number in values}
    # The margins at both ends of the axis, see below, take 30% more.
    wide = columns * (0.8 + 1.3 * ROUND_WIDTH * len(rounds))
    width = max(min(10.0, 1.2 + 3.5 * len(panels)), wide)
    figure, all_axes = make_panels(len(panels), width, 3.3)
    for axes, (title, lines) in zip(
        all_axes,
        panels.items(),
        strict=True,
    ):
        numbers = sorted({number for values in lines.values() for number in values})
        for index, (name, values) in enumerate(lines.items()):
            line = _array([values.get(number) for number in numbers])
            if np.isfinite(line).any():
                style = "--" if index else "-"
                axes.plot(
                    numbers,
                    line,
                    label=name,
                    linestyle=style,
                    **series_look(index),
                )
        axes.set_ylabel(title)
        _widen(axes)
        set_rounds(axes, numbers)
        axes.margins(x=0.15)
        legend_above(axes, columns=3)
    return figure


def _widen(axes: "Axes") -> None:
    """Give the vertical axis at least the range :data:`MINIMUM_RANGE`, within 0 to 1."""
    low, high = axes.get_ylim()
    middle = (low + high) / 2
    half = max(high - low, MINIMUM_RANGE) / 2
    axes.set_ylim(
        max(middle - half, -FRACTION_MARGIN),
        min(middle + half, 1 + FRACTION_MARGIN),
    )


@styled
def froc(panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> Figure:
    """Draw free-response curves: sensitivity against false positives per scan.

    Args:
        panels: for each class and round the corners of the curve; false positives come first.
    """
    width = min(10.0, 1.6 + 3.6 * len(panels))
    figure, all_axes = make_panels(len(panels), width, 3.4)
    ticks = (0, *FROC_RATES)
    for axes, (title, rounds) in zip(
        all_axes,
        panels.items(),
        strict=True,
    ):
        for index, (name, points) in enumerate(rounds.items()):
            x = [0.0, *(point[0] for point in points)]
            y = [0.0, *(point[1] for point in points)]
            colour = SERIES[index % len(SERIES)]
            axes.plot(
                x,
                y,
                drawstyle="steps-post",
                label=name,
                color=colour,
            )
            axes.scatter(
                x[-1],
                y[-1],
                zorder=3,
                **series_look(index),
            )
        axes.set_xscale(
            "symlog",
            linthresh=FROC_RATES[0],
            base=2,
        )
        axes.set_xlim(0, max(axes.get_xlim()[1], FROC_RATES[-1]))
        axes.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
        axes.set_xlabel("false positives per scan")
        axes.set_ylabel(f"{title}: fraction found")
        axes.set_ylim(0, 1.03)
        legend_above(axes, columns=3)
    return figure
