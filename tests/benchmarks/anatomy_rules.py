"""Measure what anatomy rules change in the pseudo-labels, for three ways to choose the rules.

    python tests/benchmarks/anatomy_rules.py results/acdc_3 --round 2

The experiment must have the predictions of the teacher in this round, and its case sheet must have
the withheld labels of the unlabelled cases. Nothing is trained, and no file is written. The rows:

- ``none``: the most likely class;
- ``gain not negative``: the rules that do not lower the mean out-of-fold Dice;
- ``not clearly harmful``: the rules that HSTF applies, which are within two standard errors;
- ``all``: every rule that the labels show;
- ``without bridges``: the rules that HSTF applies, but components are not cut at thin bridges.

Bridges are learned from the labels here, because experiments before them have none in their rules.

Dice is that of the planned grid. The clean-up is the one of final segmentations.
"""

import argparse
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import pandas as pd

from hstf.config.load import load_config
from hstf.experiment.cases import Case, Split, names_of
from hstf.experiment.context import StageContext
from hstf.imaging.geometry import GEOMETRY, Geometry
from hstf.imaging.probabilities import most_likely
from hstf.imaging.volumes import read_image
from hstf.method.plr.anatomy import AnatomyRule, describe_anatomy, learn_rule
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.plr.calibration import LearnedAnatomy
from hstf.method.plr.out_of_fold import OutOfFoldCases
from hstf.method.tta_summary import TtaSummary
from hstf.scoring.averages import standard_error
from hstf.scoring.confusion import structure_dice
from hstf.stages.evaluate.references import read_reference


@dataclass(frozen=True)
class Prediction:
    """The teacher's prediction of an unlabelled case and its withheld label, on the same grid."""

    patient: str
    probabilities: np.ndarray
    reference: np.ndarray
    voxel_mm3: float


def choices(anatomy: LearnedAnatomy) -> dict[str, dict[str, AnatomyRule]]:
    """Return the rules of each row of the table."""
    rules = {}
    for name, rule in anatomy.rules.items():
        if name not in anatomy.lesions:
            rules[name] = rule
    not_negative = {name: rule for name, rule in rules.items() if rule.dice_gain >= 0}
    not_harmful = {name: rule for name, rule in rules.items() if not rule.is_harmful}
    return {
        "none": {},
        "gain not negative": not_negative,
        "not clearly harmful": not_harmful,
        "all": rules,
        "without bridges": _with_bridges(not_harmful, []),
    }


def _with_bridges(rules: Mapping[str, AnatomyRule], cut: Collection[str]) -> dict[str, AnatomyRule]:
    """Return rules that cut the components of the structures in ``cut`` at bridges."""
    found = {}
    for name, rule in rules.items():
        found[name] = rule.model_copy(update={"cut_bridges": name in cut})
    return found


def structures_that_are_cut(context: StageContext) -> list[str]:
    """Return the structures whose labels show that components may be cut at bridges."""
    structures = context.config.structures
    cases = OutOfFoldCases("labels", context.layout, names_of(context.cases(Split.LABELLED)))
    anatomies = []
    for case in cases.read("anatomy"):
        anatomies.append(describe_anatomy(case.label, structures, case.voxel_mm3))
    found = []
    for name in structures:
        if learn_rule([anatomy[name] for anatomy in anatomies]).cut_bridges:
            found.append(name)
    return found


def predictions(context: StageContext) -> Iterator[Prediction]:
    """Yield the unlabelled cases that have a withheld label, one at a time."""
    for case in context.cases(Split.UNLABELLED):
        if case.reference is not None:
            yield prediction_of(case, context)


def prediction_of(case: Case, context: StageContext) -> Prediction:
    """Read what the teacher predicts for a case, and its withheld label."""
    layout = context.layout
    geometry = Geometry.load(layout.preprocessed / case.case_id / GEOMETRY)
    summary = TtaSummary.load(layout.teacher(context.round) / case.case_id)
    reference = read_reference(case, read_image(case.images[0]), context.config)
    return Prediction(
        case.group,
        summary.probabilities,
        geometry.label_to_grid(reference, len(context.config.class_names)),
        prod(geometry.spacing),
    )


def dices(
    prediction: Prediction,
    rules: Mapping[str, AnatomyRule],
    structures: Mapping[str, tuple[int, ...]],
) -> np.ndarray:
    """Return the Dice ``(S,)`` of each structure after the rules are applied."""
    anatomy = AnatomyRules(classes=dict(structures), rules=dict(rules))
    label = most_likely(prediction.probabilities)
    cleaned = anatomy.apply_to_label(label, prediction.probabilities, prediction.voxel_mm3)
    return structure_dice(cleaned, prediction.reference, structures)


def table(context: StageContext) -> pd.DataFrame:
    """Return a row for each choice: Dice, gain over no rule, and patients by the sign of it."""
    structures = context.config.structures
    learned = LearnedAnatomy.load(context.layout.anatomy_rules)
    cut = structures_that_are_cut(context)
    rows = choices(learned.model_copy(update={"rules": _with_bridges(learned.rules, cut)}))
    scores: dict[str, list[np.ndarray]] = {name: [] for name in rows}
    patients = []
    for prediction in predictions(context):
        patients.append(prediction.patient)
        for name, rules in rows.items():
            scores[name].append(dices(prediction, rules, structures))
    without = np.nanmean(np.array(scores["none"]), axis=1)
    found = []
    for name, of_cases in scores.items():
        means = np.nanmean(np.array(of_cases), axis=1)
        gains = pd.Series(means - without).groupby(np.array(patients)).mean()
        found.append(
            {
                "rules": name,
                "applied": ", ".join(rows[name]) or "-",
                "dice": means.mean(),
                **dict(zip(structures, np.nanmean(np.array(of_cases), axis=0), strict=True)),
                "gain": gains.mean(),
                "standard_error": standard_error(gains.tolist()),
                "better": int((gains > 0).sum()),
                "worse": int((gains < 0).sum()),
                "patients": len(gains),
            }
        )
    return pd.DataFrame(found)


def main() -> None:
    """Print the rules and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of the experiment")
    parser.add_argument("--round", type=int, default=1, help="round of the teacher")
    arguments = parser.parse_args()
    config = load_config(arguments.results / "config.yaml")
    context = StageContext.of(config, "evaluate", arguments.round)
    for name, rule in LearnedAnatomy.load(context.layout.anatomy_rules).rules.items():
        error = "unknown" if rule.gain_error is None else f"{rule.gain_error:.4f}"
        print(f"{name}: out-of-fold gain {rule.dice_gain:+.4f}, standard error {error}")
    print(table(context).to_string(index=False, float_format="%.4f"))


if __name__ == "__main__":
    main()
