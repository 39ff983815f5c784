"""``hstf lesions``: from which probability lesions are kept in a round.

The teacher's components in all unlabelled cases are ranked by their probability
(:mod:`hstf.method.plr.lesion_bounds`). ``refine`` keeps or drops them by the result,
``round_<r>/lesion_bounds.json``. Only experiments with ``lesions:`` have this stage.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod

from hstf.config.experiment import Config
from hstf.experiment.cases import Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.round_tables import TEACHER
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.geometry import GEOMETRY, Geometry
from hstf.method.external_weights import Mixture, calibration_path
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.cleaning import JudgedLesion, label_cleaner
from hstf.method.plr.lesion_bounds import LesionBound, LesionBounds, from_outside, lesion_bounds
from hstf.method.plr.lesions import LesionModel
from hstf.method.tta_summary import TtaSummary
from hstf.runtime.progress import track
from hstf.runtime.shards import read_shard


def run(args: argparse.Namespace) -> int:
    """Run the stage."""
    bound_lesions(StageContext.of_arguments(args, "lesions"))
    return 0


def bound_lesions(context: StageContext) -> LesionBounds:
    """Rank the components of a round and write ``lesion_bounds.json``.

    Raises:
        HstfError: if there is no such round, or if files are missing or have changed.
    """
    context.schedule.check(context.round)
    layout = context.layout
    calibration = Calibration.load(calibration_path(context))
    mixture = Mixture.of_split(context, Split.UNLABELLED)
    case_ids = checked_case_ids(context)

    def judged(outer: Mapping[str, float]) -> Iterator[JudgedLesion]:
        for case_id in track(case_ids, f"lesions {context.round}"):
            yield from judged_lesions(context, calibration, mixture, case_id, outer)

    bounds = bounds_from_outside(judged, calibration.lesions, len(case_ids), context.config)
    result = LesionBounds(round=context.round, cases=len(case_ids), structures=bounds)
    result.save(layout.lesion_bounds(context.round))
    for name, bound in bounds.items():
        print(
            f"lesions {context.round}: {name}: {bound.kept} of {bound.components} components are"
            f" kept, from probability {bound.probability:.2f}; expected from the labelled cases:"
            f" {bound.expected:.0f} lesions",
            flush=True,
        )
    return result


def bounds_from_outside(
    judged: Callable[[Mapping[str, float]], Iterable[JudgedLesion]],
    models: Mapping[str, LesionModel],
    cases: int,
    config: Config,
) -> dict[str, LesionBound]:
    """Return the bound of each structure.

    Regions that are inside of other ones are ranked after them, and without the components that are
    dropped with these: a dropped tumour has no core.

    Args:
        judged: returns the components of all cases, given the bounds of outer regions.
        models: model of each structure that consists of lesions.
        cases: number of cases.
        config: the sections ``refine``, ``labels`` and ``regions``.
    """
    bounds: dict[str, LesionBound] = {}
    for names in from_outside(models, config.structures):
        outer = {name: bound.probability for name, bound in bounds.items()}
        probabilities: dict[str, list[float]] = {name: [] for name in names}
        for lesion in judged(outer):
            if lesion.structure in probabilities:
                probabilities[lesion.structure].append(lesion.probability)
        of_names = {name: models[name] for name in names}
        bounds |= lesion_bounds(probabilities, of_names, cases, config.refine)
    return bounds


def checked_case_ids(context: StageContext) -> list[str]:
    """Return the unlabelled cases after checking the tables of their predictions."""
    layout = context.layout
    case_ids: list[str] = []
    for shard, cases in context.shards(Split.UNLABELLED).items():
        names = names_of(cases)
        read_shard(TEACHER, layout.teacher_table(context.round, shard), names)
        table = layout.preprocessed_table(shard)
        read_shard(PREPROCESSED, table, names, endings=(GEOMETRY,))
        case_ids += names
    return case_ids


def judged_lesions(
    context: StageContext,
    calibration: Calibration,
    mixture: Mixture,
    case_id: str,
    outer: Mapping[str, float],
) -> list[JudgedLesion]:
    """Return the components of a case with their probabilities.

    Args:
        context: the stage ``lesions``.
        calibration: the models of the lesions.
        mixture: the external teachers of the round.
        case_id: the case.
        outer: the bounds of the regions that are ranked already. Components of all others are kept.
    """
    layout = context.layout
    geometry = Geometry.load(layout.preprocessed / case_id / GEOMETRY)
    ensemble = TtaSummary.load(layout.teacher(context.round) / case_id)
    summary = mixture.mixed(case_id, ensemble)
    cleaner = label_cleaner(
        calibration,
        context.config.structures,
        prod(geometry.spacing),
        context.config.refine,
        bounds={**dict.fromkeys(calibration.lesions, 0.0), **outer},
    )
    return cleaner.clean(summary).lesions
