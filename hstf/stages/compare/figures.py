"""Figures of a comparison, in the style of the report's."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hstf.stages.report.figures import INK, MARKERS, SERIES, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = ("-", "--", ":")
Seeds = Sequence[float]


@contextmanager
def _panel(width: float, height: float) -> Iterator[tuple[Figure, "Axes"]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def _look(index: int) -> dict[str, Any]:
    """Colour, marker and line of a method: no two of the first eighteen look the same."""
    turn = index // len(SERIES)
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": MARKERS[(index + turn) % len(MARKERS)],
        "linestyle": LINES[turn % len(LINES)],
    }


def dice_by_round(methods: Mapping[str, Mapping[int, Seeds]]) -> Figure:
    """Mean Dice over the seeds with its standard deviation, by round (0: warm-up), a line for each method."""
    rounds = sorted({number for values in methods.values() for number in values})
    with _panel(7.2, 3.8) as (figure, axes):
        for index, (name, values) in enumerate(methods.items()):
            x = np.array(list(values)) + 0.2 * ((index + 0.5) / len(methods) - 0.5)
            means = [fmean(seeds) for seeds in values.values()]
            spread = [stdev(seeds) if len(seeds) > 1 else 0.0 for seeds in values.values()]
            axes.errorbar(x, means, spread, capsize=3, elinewidth=1, label=name, **_look(index))
        axes.set(ylabel="Dice of the test cases", xticks=rounds)
        axes.set_xticklabels(["warm-up" if number == 0 else f"round {number}" for number in rounds])
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def dice_by_method(methods: Mapping[str, Seeds]) -> Figure:
    """Dice of the last round: a point for each seed, a line at their mean; methods from best to worst."""
    ordered = sorted(methods.items(), key=lambda item: -np.mean(item[1]))
    with _panel(6.4, 1.0 + 0.38 * len(ordered)) as (figure, axes):
        for row, (_, seeds) in enumerate(ordered):
            axes.scatter(
                seeds,
                [row] * len(seeds),
                color=SERIES[0],
                alpha=0.8,
                zorder=3,
                label="" if row else "a seed",
            )
            axes.vlines(
                np.mean(seeds),
                row - 0.3,
                row + 0.3,
                color=INK,
                linewidth=2,
                label="" if row else "mean",
            )
        axes.set_yticks(range(len(ordered)), [name for name, _ in ordered])
        axes.set(xlabel="Dice of the test cases, last round", ylim=(len(ordered) - 0.5, -0.5))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def dice_by_scale(methods: Mapping[str, Mapping[float, float]]) -> Figure:
    """Mean Dice over the seeds by input scale, a line for each method."""
    scales = sorted({scale for values in methods.values() for scale in values})
    with _panel(7.2, 3.8) as (figure, axes):
        for index, (name, values) in enumerate(methods.items()):
            axes.plot(
                sorted(values),
                [values[scale] for scale in sorted(values)],
                label=name,
                **_look(index),
            )
        axes.set(
            xlabel="input scale (1: as planned)", ylabel="Dice of the test cases", xticks=scales
        )
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
