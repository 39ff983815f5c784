"""``hstf report``: show the experiment on one HTML page that needs no other file.

Writes below ``<output>/<experiment>/``:

- ``rounds.csv``: a row for each evaluated round;
- ``report/report.html``: the page, with tables, figures and pictures;
- ``report/<figure>.png``: the figures of the page;
- ``report/labels.txt`` and ``report/colours.ctbl``: names and colours of the classes, for ITK-SNAP
  and for 3D Slicer;
- ``provenance.json``: what the results were made from;
- ``manifest.json``: rounds, files and scores, for programs.

The page shows what exists so far. A section without data states why it is empty, and a file that
cannot be read is named on the page.
"""

import argparse
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.context import StageContext
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.experiment.keys import Keys
from hstf.experiment.provenance import write_provenance
from hstf.imaging.colour_tables import itksnap_labels, label_colours, slicer_colours
from hstf.runtime.errors import HstfError, WriteError, few
from hstf.runtime.files import make_folder, write_text
from hstf.scoring.printed_rounds import print_rounds
from hstf.scoring.round_choice import choose_round
from hstf.stages.report.background import check_section, plan_section, provenance_section
from hstf.stages.report.calibration import calibration_section
from hstf.stages.report.external import external_section
from hstf.stages.report.figure_style import Figures
from hstf.stages.report.gallery import gallery_section
from hstf.stages.report.headline import headline, look_first, tiles
from hstf.stages.report.lesions import lesions_section
from hstf.stages.report.manifest import write_manifest
from hstf.stages.report.next_steps import next_steps_section
from hstf.stages.report.overrides import overrides_section
from hstf.stages.report.page import Gallery, Note, Section, counted, page
from hstf.stages.report.pseudo_labels import pseudo_labels_section
from hstf.stages.report.results import Results
from hstf.stages.report.rounds import rounds_section
from hstf.stages.report.test_cases import test_cases_section
from hstf.stages.report.training import training_section

KIND = "self-training report"


def run(args: argparse.Namespace) -> int:
    """Write the report, or print the table of rounds."""
    config = load_config(*args.config)
    context = StageContext.of(config, "report")
    if args.show:
        show(context)
        return 0
    print(f"report: {report(context, other_settings(config)).resolve()}", flush=True)
    write_manifest(context)
    write_provenance(config)
    return 0


def show(context: StageContext) -> None:
    """Print the table of rounds, the path of the report, and what was exported and why.

    Raises:
        HstfError: if there is no report.
    """
    path = context.layout.report
    if not path.is_file():
        raise HstfError(f"{path}: is missing. Run the workflow, or hstf report without --show.")
    print_rounds(context)
    if (context.layout.export / "model.json").is_file():
        print(_exported(context), flush=True)


def _exported(context: StageContext) -> str:
    """Describe which model was exported, and why."""
    choice = choose_round(context)
    members = context.schedule.members(choice.round)
    count = f"{len(members)} members" if len(members) > 1 else "one network"
    return (
        f"Exported: the model of round {choice.round} ({count}). {choice.reason}\n"
        f"To segment scans: hstf predict --model {context.layout.export} --input SCANS"
        " --output SEGMENTATIONS"
    )


def other_settings(config: Config) -> list[str]:
    """Return a sentence if results were made from other settings or files than those of now."""
    keys = Keys(Jobs(config), sets_times=False)
    other = []
    for job in keys.jobs.before(Job("report")):
        reasons = keys.state(job).reasons
        if reasons and keys.is_recorded(job):
            other.append(f"{job.name} ({reasons[0]})")
    if not other:
        return []
    return [
        f"{counted(len(other), 'result')} of this page {'was' if len(other) == 1 else 'were'} made"
        " from other settings or files than those that config.yaml and the case sheet name now:"
        f" {few(other)}. Run snakemake again."
    ]


def report(context: StageContext, warnings: Sequence[str] = ()) -> Path:
    """Write the report and ``rounds.csv``.

    Args:
        context: the stage ``report``.
        warnings: sentences that a reader must see first.

    Returns:
        The page.

    Raises:
        HstfError: if its folder cannot be written.
    """
    target = context.layout.report
    make_folder(target.parent)
    # Figures of an earlier state may belong to rounds that do not exist any more.
    for figure in target.parent.glob("*.png"):
        figure.unlink()
    labels = label_colours(context.config)
    write_text(context.layout.itksnap_labels, itksnap_labels(labels))
    write_text(context.layout.slicer_colours, slicer_colours(labels))
    write_text(target, render(context, target.parent, warnings))
    return target


def render(context: StageContext, folder: Path, warnings: Sequence[str] = ()) -> str:
    """Return the page as HTML and save its figures in ``folder``."""
    results = Results(context)
    results.problems += warnings
    figures = Figures(folder)
    sections = [
        # Reviewers come to see the pictures; long tables follow.
        _section(gallery_section, results),
        _section(rounds_section, results, figures),
        _section(lesions_section, results, figures),
        _section(pseudo_labels_section, results, figures),
        _section(overrides_section, results, figures),
        _section(next_steps_section, results),
        _section(test_cases_section, results),
        _section(training_section, results, figures),
        _section(calibration_section, results, figures),
        *_external(results),
        _section(check_section, results),
        _section(plan_section, results),
        _section(provenance_section, results),
    ]
    main_result = headline(results)
    numbers = tiles(results)
    # This comes last: reading the other parts may find files that cannot be read.
    first = look_first(results, anchors(sections))
    return page(
        context.experiment,
        KIND,
        main_result,
        sections,
        numbers,
        first,
    )


def _external(results: Results) -> list[Section]:
    """Return the section about external teachers, if there are any."""
    has_teachers = bool(results.config.teacher.external)
    return [_section(external_section, results)] if has_teachers else []


def anchors(sections: Sequence[Section]) -> set[str]:
    """Return the addresses of the cases whose pictures are in the page."""
    found: set[str] = set()
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Gallery):
                found.update(case.key for case in block.cases)
    return found


def _section(builder: Callable[..., Section], *arguments: object) -> Section:
    """Return a section, or an error message in its place.

    One unexpected file must not cost the whole page after days of computing. A figure that could
    not be written is another matter: the next run would take the page for complete.

    Raises:
        WriteError: if a figure cannot be written.
    """
    try:
        return builder(*arguments)
    except WriteError:
        raise
    except Exception as error:
        traceback.print_exc()
        name = builder.__name__.removesuffix("_section")
        text = (
            f"This section could not be written ({type(error).__name__}: {error})."
            " The log contains the details."
        )
        return Section(name, name.replace("_", " ").capitalize(), "", [Note([text], "bad")])
