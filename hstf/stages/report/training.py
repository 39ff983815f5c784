"""Section about the training: the terms of the loss of each ensemble member."""

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from hstf.config.pretrain import NO_TASK
from hstf.experiment.round_tables import HISTORY
from hstf.stages.report.figure_style import Figures
from hstf.stages.report.figures import training_curves
from hstf.stages.report.gallery import picture_address
from hstf.stages.report.page import Block, Chart, Section, round_name
from hstf.stages.report.results import Results

NO_TERMS = ("step", "learning_rate")
"""Columns of ``history.csv`` that are no terms of the loss."""

EXAMPLE_PIXELS = 1600
"""Maximum length of the longer side of the pictures of patches."""

Curve = tuple[list[float], list[float]]
"""Steps and values."""


def training_section(results: Results, figures: Figures) -> Section:
    """Return the training curves: a panel for each term of the loss, a line for each member."""
    blocks = _csc_chart(results, figures)
    caption = (
        "Each point is a mean over the steps since the previous point. The model is the last EMA of"
        " the weights. No checkpoint is selected."
    )
    for number in reversed([0, *results.rounds]):
        panels = _panels(results, number)
        if panels:
            title = f"Training, {round_name(number)}"
            figure = training_curves(panels)
            blocks.append(figures.add(f"training_round_{number}", title, figure, caption))
    blocks += _pretraining(results, figures)
    return Section("training", "Training", "", blocks, "No ensemble member is trained yet.")


def _pretraining(results: Results, figures: Figures) -> list[Block]:
    """Return the curve of the pre-training and pictures of some of its patches."""
    if results.config.pretrain.task == NO_TASK:
        return []  # files of an earlier run may be there
    layout = results.layout
    history = results.frame(HISTORY, layout.pretraining_history)
    blocks: list[Block] = []
    if len(history):
        figure = training_curves({"loss": {"pretrain": _curve(history, "loss")}})
        caption = f"No label is read. Weights: {layout.pretrained_weights}."
        blocks.append(figures.add("pretraining", "Pre-training", figure, caption))
    address = picture_address(layout.pretraining_examples, EXAMPLE_PIXELS)
    if address is not None:
        with Image.open(layout.pretraining_examples) as image:
            width = image.width
        title = "Patches of the pre-training"
        picture = Markup('<img src="{}" width="{}" alt="{}">').format(address, width, title)
        caption = (
            "The middle slice of patches of labelled and unlabelled scans: what the task was, and"
            " what the pre-trained network made of it."
        )
        blocks.append(Chart("pretraining_examples", title, picture, caption, width))
    return blocks


def _panels(results: Results, number: int) -> dict[str, dict[str, Curve]]:
    """Return the curve of each term and member in a round."""
    panels: dict[str, dict[str, Curve]] = {}
    for member in results.schedule.trained(number):
        history = results.frame(HISTORY, results.layout.history(number, member))
        for term in history.columns.drop(list(NO_TERMS)):
            curve = _curve(history, term)
            if curve[0]:
                panels.setdefault(term, {})[member] = curve
    if len(panels) == 2 and "loss" in panels:
        # The only term is the loss itself.
        return {"loss": panels["loss"]}
    return panels


def _curve(history: pd.DataFrame, term: str) -> Curve:
    """Return the points of a term that are finite."""
    numbers = history[["step", term]].astype(float)
    finite = numbers[np.isfinite(numbers).all(axis=1)]
    return finite["step"].tolist(), finite[term].tolist()


def _csc_chart(results: Results, figures: Figures) -> list[Block]:
    """Return the terms of cross-scale consistency: for each round the mean of its members."""
    panels: dict[str, dict[str, Curve]] = {}
    for number in results.rounds:
        for term, curves in _panels(results, number).items():
            if term.startswith("csc"):
                panels.setdefault(term, {})[round_name(number)] = _mean_curve(list(curves.values()))
    if not panels:
        return []
    caption = (
        "Disagreement of the network with itself at another input scale, as a term of the loss. It"
        " grows at the beginning, while its weight is increased."
    )
    title = "Cross-scale consistency"
    return [figures.add("csc", title, training_curves(panels), caption)]


def _mean_curve(curves: list[Curve]) -> Curve:
    """Return the mean of curves, as far as the shortest one."""
    points = min(len(steps) for steps, _ in curves)
    values = np.mean([values[:points] for _, values in curves], axis=0)
    steps = curves[0][0][:points]
    return steps, values.tolist()
