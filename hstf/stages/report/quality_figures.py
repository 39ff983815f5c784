"""Figures of the calibration and of the quality of pseudo-labels.

Each function takes plain numbers and returns a matplotlib figure.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from hstf.stages.report.figure_style import (
    INK,
    LINES,
    PANELS_IN_ROW,
    SERIES,
    draw_diagonal,
    legend_above,
    legend_right,
    make_axes,
    make_panels,
    series_look,
    styled,
)
from hstf.stages.report.page import round_name

MAXIMUM_NAMED_CURVES = 2 * len(SERIES)
"""With more classes, the reliability diagram draws their curves without names."""
MANY_POINTS = 1500
"""From this number on, points are drawn as an image: a page of vector points would be slow."""


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
