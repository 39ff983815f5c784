"""The style of all figures, and the parts that figures have in common.

A figure is drawn once into the page and once as a PNG file. Its colours in the page come from the
style sheet, so that it is legible on a light and on a dark background. The colours are those of
Okabe and Ito, which colour-blind people can distinguish. Markers and line styles carry the same
information.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from hstf.runtime.files import atomic_path
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


def as_array(values: Numbers) -> np.ndarray:
    """Convert numbers to an array; None becomes NaN."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)
