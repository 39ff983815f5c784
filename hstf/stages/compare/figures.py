"""Figures of a comparison, in the style of the report."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hstf.stages.report.figure_style import (
    INK,
    LINES,
    MARKERS,
    SERIES,
    legend_right,
    make_axes,
    set_rounds,
    styled,
)

Seeds = Sequence[float]
"""A value for each seed."""


def method_look(index: int) -> dict[str, Any]:
    """Return colour, marker and line style of a method, all different for the first 24 methods."""
    turn = index // len(SERIES)
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": MARKERS[(index + turn) % len(MARKERS)],
        "linestyle": LINES[turn % len(LINES)],
    }


@styled
def dice_by_round(methods: Mapping[str, Mapping[int, Seeds]]) -> Figure:
    """Draw the mean Dice over the seeds by round, with its standard deviation.

    Args:
        methods: Dice of each seed by round (0: warm-up) and method.
    """
    figure, axes = make_axes(7.2, 3.8)
    for index, (name, rounds) in enumerate(methods.items()):
        # Bars of different methods do not cover each other.
        offset = 0.2 * ((index + 0.5) / len(methods) - 0.5)
        positions = np.array(list(rounds)) + offset
        means = [fmean(seeds) for seeds in rounds.values()]
        deviations = [stdev(seeds) if len(seeds) > 1 else 0.0 for seeds in rounds.values()]
        axes.errorbar(
            positions,
            means,
            deviations,
            capsize=3,
            elinewidth=1,
            label=name,
            **method_look(index),
        )
    axes.set_ylabel("Dice of the test cases")
    set_rounds(axes, sorted(set().union(*methods.values())))
    legend_right(axes)
    return figure


@styled
def dice_by_method(methods: Mapping[str, Seeds]) -> Figure:
    """Draw the Dice of the last round: a point for each seed, a line at their mean.

    Args:
        methods: Dice of each seed by method. The figure sorts them from best to worst.
    """
    names = sorted(methods, key=lambda name: -fmean(methods[name]))
    figure, axes = make_axes(6.4, 1.0 + 0.38 * len(names))
    for row, name in enumerate(names):
        seeds = methods[name]
        mean = fmean(seeds)
        seed_label = ""
        mean_label = ""
        if row == 0:
            seed_label = "one seed"
            mean_label = "mean"
        axes.scatter(
            seeds,
            [row] * len(seeds),
            color=SERIES[0],
            alpha=0.8,
            zorder=3,
            label=seed_label,
        )
        axes.vlines(
            mean,
            row - 0.3,
            row + 0.3,
            color=INK,
            linewidth=2,
            label=mean_label,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("Dice of the test cases, last round")
    legend_right(axes)
    return figure


@styled
def dice_by_scale(methods: Mapping[str, Mapping[float, float]]) -> Figure:
    """Draw the mean Dice over the seeds by input scale.

    Args:
        methods: mean Dice by scale and method.
    """
    figure, axes = make_axes(7.2, 3.8)
    for index, (name, scales) in enumerate(methods.items()):
        positions = sorted(scales)
        dice = [scales[scale] for scale in positions]
        axes.plot(
            positions,
            dice,
            label=name,
            **method_look(index),
        )
    axes.set_xlabel("input scale (1: as planned)")
    axes.set_ylabel("Dice of the test cases")
    axes.set_xticks(sorted(set().union(*methods.values())))
    legend_right(axes)
    return figure
