"""``hstf report``: the experiment on one HTML page that needs nothing but itself, and its figures as files.

Writes, below ``<output>/<experiment>/``:

- ``rounds.csv``: a row for each evaluated round, see :func:`hstf.scoring.rounds.rounds_table`;
- ``report/report.html``: tables, figures and pictures, all inside the file; it opens from a disk without a network;
- ``report/dice_by_round.png``: mean test Dice with its interval and each class, over the rounds;
- ``report/paired_cases.png``: each test case, warm-up against last round;
- ``report/lesions_by_round.png``, ``report/froc.png``: lesion-wise scores of the classes that ``lesions:`` names;
- ``report/training_round_<r>.png``, ``report/csc.png``: the loss terms of each member, and those of CSC over the rounds;
- ``report/calibration.png``, ``report/reliability.png``, ``report/predicted_dice_labelled.png``: confidence and predicted
  Dice on labelled cases;
- ``report/predicted_dice.png``: predicted Dice of the pseudo-labels in each round;
- ``report/predicted_against_true.png``, ``report/pseudo_label_quality.png``, ``report/risk_coverage.png``: pseudo-labels
  against withheld labels, where a benchmark has them.

A figure whose data does not exist is not written, and its section says why. What cannot be read is named on the page.
"""

import argparse
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hstf.config.load import load_config
from hstf.experiment.context import StageContext
from hstf.experiment.provenance import write_provenance
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text

if TYPE_CHECKING:
    from hstf.stages.report.page import Section


def run(args: argparse.Namespace) -> int:
    config = load_config(*args.config)
    context = StageContext.of(config, "report")
    if args.show:
        from hstf.scoring.rounds import print_rounds

        if not context.layout.report.is_file():
            raise HstfError(
                f"{context.layout.report}: no report yet. Run the workflow, or hstf report without --show."
            )
        print_rounds(context)
        return 0
    print(f"report: {report(context).resolve()}", flush=True)
    write_provenance(config)
    return 0


def report(context: StageContext) -> Path:
    """Write the report of an experiment, however far it is, and ``rounds.csv``; returns the HTML file."""
    target = context.layout.report
    for figure in target.parent.glob("*.png"):
        figure.unlink()  # of an earlier state, with other rounds perhaps
    write_text(target, render(context, target.parent))
    return target


def render(context: StageContext, folder: Path) -> str:
    """The page as HTML; figures also go to ``folder``."""
    from hstf.stages.report import background, calibration, lesions, pseudo_labels, scores
    from hstf.stages.report.figures import Figures
    from hstf.stages.report.page import page
    from hstf.stages.report.results import Results

    results, figures = Results(context), Figures(folder)
    sections = [
        _section(scores.rounds_section, results, figures),
        _section(lesions.lesions_section, results, figures),
        _section(pseudo_labels.pseudo_labels_section, results, figures),
        _section(pseudo_labels.gallery_section, results),
        _section(pseudo_labels.overrides_section, results),
        _section(background.act_section, results),
        _section(scores.test_cases_section, results),
        _section(background.training_section, results, figures),
        _section(calibration.calibration_section, results, figures),
        _section(background.check_section, results),
        _section(background.plan_section, results),
        _section(background.provenance_section, results),
    ]
    return page(
        context.experiment,
        "self-training report",
        scores.headline(results),
        sections,
        background.tiles(results),
        scores.look_first(results),
    )


def _section(builder: "Callable[..., Section]", *arguments: object) -> "Section":
    """A section, or why there is none: after days of computing no odd file takes the rest of the page with it."""
    from hstf.stages.report.page import Note, Section

    try:
        return builder(*arguments)
    except Exception as error:
        traceback.print_exc()
        name = builder.__name__.removesuffix("_section")
        text = f"This part could not be written ({type(error).__name__}: {error}). The log has the details."
        return Section(name, name.replace("_", " ").capitalize(), "", [Note([text], "bad")])
