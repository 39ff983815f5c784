"""Figures of rounds: scores, training curves and lesions.

Each function takes plain numbers and returns a matplotlib figure.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hstf.scoring.lesion_summary import FROC_RATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
from hstf.stages.report.figure_style import (
    INK,
    LINES,
    MARKERS,
    PANELS_IN_ROW,
    SERIES,
    Numbers,
    as_array,
    draw_diagonal,
    legend_above,
    legend_right,
    make_axes,
    make_panels,
    series_look,
    set_rounds,
    styled,
)
from hstf.stages.report.quality_figures import MANY_POINTS

MAXIMUM_NAMED_CLASSES = 8
"""With more classes, the figure of the rounds draws their lines without names."""
ROUND_WIDTH = 0.68
"""Width (inches) that the name of a round needs on an axis."""
MINIMUM_RANGE = 0.04
"""Minimum range of an axis of fractions, so that a change without meaning does not look large."""
FRACTION_MARGIN = 0.02
"""How far an axis of fractions goes beyond 0 and 1, so that markers are not cut."""
MAXIMUM_NAME = 24
"""Number of characters of the name of a case in a figure."""
NAMED_LOSSES = 3
"""Number of test cases whose loss is named."""


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
    means = as_array(mean)
    errors = np.nan_to_num(np.array([means - as_array(low), as_array(high) - means]))
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
            as_array(values),
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
            line = as_array([values.get(number) for number in numbers])
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
