"""Predict the test or validation cases of a shard and score them against their labels.

The prediction is the one of ``hstf predict``, so that the scores hold for an exported model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split
from hstf.experiment.checked_scans import warn_of_unchecked
from hstf.experiment.context import StageContext
from hstf.experiment.plan import Plan
from hstf.experiment.score_tables import EVALUATION
from hstf.imaging.affines import steps_of
from hstf.imaging.label_values import IGNORED, to_label_values
from hstf.imaging.preparation import read_images
from hstf.imaging.regions import structure_mask
from hstf.imaging.sparse_labels import is_sparse
from hstf.imaging.volumes import Volume, write_like
from hstf.method.inference import Prediction, Predictor
from hstf.method.plr.calibration import prediction_rules
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_json
from hstf.runtime.shards import CaseWork, run_shard
from hstf.runtime.stamps import sha256_once
from hstf.scoring.averages import finite_or_none, mean
from hstf.scoring.documents import MEMBER_METRICS, CaseScores
from hstf.scoring.lesion_detection import CaseLesions, find_lesions
from hstf.scoring.metrics import score
from hstf.stages.evaluate.references import lesion_structures, read_reference, scored_files

COLUMNS = ("dice", "hd95_mm", "asd_mm")
"""Metrics in the table of a shard."""


def evaluate_shard(
    context: StageContext,
    shard: str,
) -> int:
    """Predict and score the test or validation cases of a shard with the model of the round.

    Returns:
        The number of cases that were computed; the others were up to date.

    Raises:
        HstfError: if the shard has other cases, or if files are missing, do not match or are not
            those that were checked.
    """
    cases = context.shard(shard)
    if any(case.split not in (Split.TEST, Split.VALIDATION) for case in cases):
        raise HstfError(
            f"--shard {shard}: evaluate predicts only test and validation cases. Use a shard"
            " test_<k> or validation_<k>."
        )
    model_digests = _model_digests(context)
    model = RoundModel(context)
    digests = _scan_digests(cases)
    warn_of_unchecked(context.layout, digests)
    works = []
    for case in cases:
        evaluation = CaseEvaluation(context, case, model)
        inputs = model_digests | _case_inputs(case, digests)
        works.append(
            CaseWork(
                case.case_id,
                inputs,
                evaluation.outputs,
                evaluation.write,
            )
        )
    path = context.layout.evaluation_table(context.round, shard)
    title = f"evaluate {context.round} {shard}"
    return run_shard(
        EVALUATION,
        path,
        _case_parameters(context),
        works,
        title,
    )


def _model_digests(context: StageContext) -> dict[str, str]:
    """Return the SHA-256 of everything that the model consists of."""
    digests = {}
    for name, path in _weights(context).items():
        digests[f"weights of {name}"] = sha256_once(path)
    digests["plan"] = sha256_once(context.layout.plan)
    rules = prediction_rules(context.config, context.layout)
    if rules is not None:
        digests["anatomy rules"] = sha256_json(rules.model_dump(mode="json"))
    return digests


def _case_parameters(context: StageContext) -> dict[str, Any]:
    """Return what the scores of a case depend on. Intervals are computed later, from all cases."""
    evaluate = dict(context.parameters["evaluate"])
    del evaluate["bootstrap"]
    return context.parameters | {"evaluate": evaluate}


def _weights(context: StageContext) -> dict[str, Path]:
    number = context.round
    paths = {}
    for name in context.schedule.members(number):
        paths[name] = context.layout.weights(number, name)
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        stage = "student" if number else "warmup"
        raise HstfError(
            f"round {number} has no model yet: {', '.join(missing)} missing."
            f" Run the {stage} stage first."
        )
    return paths


def _scan_digests(cases: Iterable[Case]) -> dict[Path, str]:
    """Return the SHA-256 of the files of all cases."""
    digests = {}
    for case in cases:
        paths = scored_files(case).values()
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise HstfError(
                f"{case.case_id}: {', '.join(missing)} missing."
                " Restore the files or correct the case sheet."
            )
        for path in paths:
            digests[path] = sha256_once(path)
    return digests


def _case_inputs(case: Case, digests: Mapping[Path, str]) -> dict[str, str]:
    """Return the SHA-256 of the files of a case, its patient and its site."""
    inputs = {name: digests[path] for name, path in scored_files(case).items()}
    return inputs | {"group": case.group, "site": case.site}


def load_predictor(context: StageContext) -> Predictor:
    """Load the model of the round with all its members.

    Raises:
        HstfError: if weights or plan are missing or damaged.
    """
    config = context.config
    return Predictor.load(
        list(_weights(context).values()),
        Plan.load(context.layout.plan),
        config.predict,
        config.modalities,
        context.device,
        config.preprocess,
        prediction_rules(config, context.layout),
    )


@dataclass(frozen=True)
class RoundModel:
    """The model of a round, loaded when a case needs it."""

    context: StageContext

    @cached_property
    def predictor(self) -> Predictor:
        """All members as one ensemble."""
        return load_predictor(self.context)


@dataclass(frozen=True)
class CaseEvaluation:
    """Predicts and scores one test case."""

    context: StageContext
    case: Case
    model: RoundModel

    @property
    def config(self) -> Config:
        """The configuration of the stage."""
        return self.context.config

    @property
    def outputs(self) -> list[Path]:
        """The scores and, if predictions are kept, the segmentation."""
        files = [self._scores_path]
        if self.config.evaluate.save_predictions:
            files.append(self._prediction_path)
        return files

    @property
    def _scores_path(self) -> Path:
        return self.context.layout.evaluation_scores(self.context.round, self.case.case_id)

    @property
    def _prediction_path(self) -> Path:
        return self.context.layout.evaluation_prediction(self.context.round, self.case.case_id)

    def write(self) -> dict[str, Any]:
        """Write segmentation and scores of the case and return its row of the table."""
        volumes = read_images(self.case.images, self.config.modalities)
        lesions = lesion_structures(self.config)
        try:
            prediction = self.model.predictor.predict(volumes, probabilities_of=lesions)
        except HstfError as error:
            raise HstfError(f"{self.case.case_id}: {error}") from error
        if self.config.evaluate.save_predictions:
            values = to_label_values(prediction.label, self.config)
            write_like(self._prediction_path, values, volumes[0])
        scores = score_case(
            self.config,
            self.case,
            prediction,
            volumes[0],
        )
        scores.save(self._scores_path)
        return {name: mean(scores.values(name)) for name in COLUMNS}


def score_case(
    config: Config,
    case: Case,
    prediction: Prediction,
    image: Volume,
) -> CaseScores:
    """Score the prediction of a case against its withheld label.

    Args:
        config: the configuration of the stage.
        case: a test case.
        prediction: segmentation of the ensemble and of each member.
        image: a volume of the case.

    Raises:
        HstfError: if the label has another geometry or unknown values.
    """
    reference = read_reference(case, image, config)
    structures = config.structures
    empty = config.evaluate.empty
    scores = score(
        prediction.label,
        reference,
        steps_of(image.affine),
        structures,
        empty,
    )
    members = {}
    for member, label in prediction.members.items():
        own = scores
        if label is not prediction.label:
            own = score(label, reference, steps_of(image.affine), structures, empty)
        members[member] = {name: _member_scores(values) for name, values in own.items()}
    lesions = {}
    if not is_sparse(reference):
        for name in lesion_structures(config):
            lesions[name] = _find_lesions(
                config,
                prediction,
                reference,
                image,
                name,
            )
    return CaseScores(
        case_id=case.case_id,
        group=case.group,
        site=case.site,
        classes={name: _without_nan(values) for name, values in scores.items()},
        lesions=lesions,
        members=members,
    )


def _find_lesions(
    config: Config,
    prediction: Prediction,
    reference: np.ndarray,
    image: Volume,
    name: str,
) -> CaseLesions:
    classes = config.structures[name]
    ignored = reference == IGNORED
    return find_lesions(
        structure_mask(prediction.label, classes),
        structure_mask(reference, classes),
        steps_of(image.affine),
        config.evaluate.detection,
        prediction.probabilities.get(name),
        ignored if ignored.any() else None,
    )


def _member_scores(values: Mapping[str, Any]) -> dict[str, Any]:
    return _without_nan({metric: values[metric] for metric in MEMBER_METRICS})


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN, which JSON does not have, by None."""
    plain = {}
    for name, value in values.items():
        plain[name] = value if isinstance(value, str) else finite_or_none(value)
    return plain
