"""Test cases of a shard: predicted from their files as ``hstf predict`` does it, and scored against their labels."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split, read_cases
from hstf.experiment.dependencies import stage_parameters
from hstf.experiment.layout import Layout
from hstf.experiment.schedule import members
from hstf.imaging.label_values import IGNORED, to_label_values
from hstf.imaging.regions import Structures, structure_mask
from hstf.imaging.sparse_labels import is_sparse
from hstf.imaging.volumes import Volume, read_image, write_like
from hstf.method.plr.calibration import prediction_rules
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file, sha256_json, write_json
from hstf.runtime.shards import CaseWork, run_shard
from hstf.scoring.averages import known, mean_over_classes
from hstf.scoring.lesion_detection import find_lesions
from hstf.scoring.metrics import EMPTY_DICE, score, structure_dice
from hstf.stages.evaluate.references import read_reference

if TYPE_CHECKING:
    from hstf.method.inference import Prediction, Predictor

COLUMNS = ("dice", "hd95_mm", "asd_mm")


def evaluate_shard(config: Config, number: int, shard: str) -> int:
    """Predict and score the test cases of ``shard`` with the model of round ``number``.

    Writes the predictions, ``scores/<case>.json`` and the shard's table, whose columns are means over the classes
    or regions. Returns how many cases were computed; the others were up to date.

    Raises:
        HstfError: the shard holds no test cases, or a file is missing or does not fit.
    """
    cases = read_cases(config).shard(shard, config.shard_size)
    if any(case.split is not Split.TEST for case in cases):
        raise HstfError(
            f"--shard {shard}: evaluate predicts test cases alone. Name a shard test_<k>."
        )
    config, layout = config.for_round(number), Layout.of(config)
    model = {
        f"weights of {name}": sha256_file(path) for name, path in _weights(config, number).items()
    }
    model["plan"] = sha256_file(layout.plan)
    if known := prediction_rules(config):
        model["structure"] = sha256_json(known.model_dump(mode="json"))
    predictor = cache(partial(load_predictor, config, number))  # loaded when a case needs it
    works = [
        CaseWork(
            case.case_id,
            {**model, **_case_inputs(case)},
            _outputs(config, number, case),
            partial(_evaluate_case, config, number, case, predictor),
        )
        for case in cases
    ]
    table = layout.evaluation_table(number, shard)
    return run_shard(
        table, _parameters(config, number), works, COLUMNS, f"evaluate {number} {shard}"
    )


def load_predictor(config: Config, number: int) -> "Predictor":
    """The model of round ``number``, all members as one."""
    from hstf.experiment.plan import Plan
    from hstf.method.inference import Predictor

    weights = list(_weights(config, number).values())
    plan, known = Plan.load(Layout.of(config).plan), prediction_rules(config)
    return Predictor.load(
        weights, plan, config.predict, config.modalities, config.device, config.preprocess, known
    )


def _weights(config: Config, number: int) -> dict[str, Path]:
    paths = {name: Layout.of(config).weights(number, name) for name in members(config, number)}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        stage = "student" if number else "warmup"
        raise HstfError(
            f"round {number} has no model yet: {', '.join(missing)} missing. Run the {stage} stage first."
        )
    return paths


def _parameters(config: Config, number: int) -> dict[str, Any]:
    """What a case's scores depend on; intervals are made later, from all cases."""
    parameters = stage_parameters(config, "evaluate", number)
    return {
        **parameters,
        "evaluate": {k: v for k, v in parameters["evaluate"].items() if k != "bootstrap"},
    }


def _case_inputs(case: Case) -> dict[str, str]:
    assert case.reference is not None, "the case sheet refuses test cases without a label"
    files = {
        **{f"image {k}": path for k, path in enumerate(case.images)},
        "reference": case.reference,
    }
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        raise HstfError(
            f"{case.case_id}: {', '.join(missing)} missing. Restore the files or correct the case sheet."
        )
    return {name: sha256_file(path) for name, path in files.items()} | {
        "group": case.group,
        "site": case.site,
    }


def _outputs(config: Config, number: int, case: Case) -> list[Path]:
    layout = Layout.of(config)
    scores = layout.evaluation_scores(number, case.case_id)
    prediction = layout.evaluation_prediction(number, case.case_id)
    return [scores, prediction] if config.evaluate.save_predictions else [scores]


def _evaluate_case(
    config: Config, number: int, case: Case, predictor: Callable[[], "Predictor"]
) -> Mapping[str, Any]:
    """Write a case's prediction and scores; returns its row of the shard's table."""
    layout = Layout.of(config)
    volumes = [read_image(path) for path in case.images]
    try:
        prediction = predictor().predict(volumes, probabilities_of=lesion_structures(config))
    except HstfError as error:
        raise HstfError(f"{case.case_id}: {error}") from error
    if config.evaluate.save_predictions:
        path = layout.evaluation_prediction(number, case.case_id)
        write_like(path, to_label_values(prediction.label, config), volumes[0])
    scores = score_case(config, case, prediction, volumes[0])
    write_json(layout.evaluation_scores(number, case.case_id), scores)
    return {name: mean_over_classes(scores["classes"], name) for name in COLUMNS}


def score_case(
    config: Config, case: Case, prediction: "Prediction", image: Volume
) -> dict[str, Any]:
    """Scores of a case as plain JSON values.

    ``classes``: metrics of each class, or of each region where there are any; ``lesions``: those of the structures that
    are lesions one by one, see :class:`hstf.scoring.lesion_detection.CaseLesions`, none where the reference is sparse; ``members``: Dice
    of each member alone.

    Raises:
        HstfError: the reference does not lie on the image's voxels, or holds values that are no class.
    """
    reference = read_reference(case, image, config)
    structures, empty = config.structures, config.evaluate.empty
    scores = score(prediction.label, reference, image.spacing, structures, empty)
    single = {
        member: structure_dice(label, reference, structures, EMPTY_DICE[empty])
        for member, label in prediction.members.items()
    }
    return {
        "case_id": case.case_id,
        "group": case.group,
        "site": case.site,
        "classes": {name: _plain(values) for name, values in scores.items()},
        "lesions": {
            name: _lesions(config, prediction, reference, image, name)
            for name in lesion_structures(config)
            if not is_sparse(reference)
        },
        "members": {
            member: _plain(dict(zip(structures, dices, strict=True)))
            for member, dices in single.items()
        },
    }


def lesion_structures(config: Config) -> Structures:
    """The classes, or regions, that consist of lesions."""
    return {name: members for name, members in config.structures.items() if name in config.lesions}


def _lesions(
    config: Config, prediction: "Prediction", reference: np.ndarray, image: Volume, name: str
) -> dict[str, Any]:
    members = config.structures[name]
    lesions = find_lesions(
        structure_mask(prediction.label, members) & (reference != IGNORED),
        structure_mask(reference, members),
        image.spacing,
        config.evaluate.detection,
        prediction.probabilities.get(name),
    )
    return lesions.to_json()


def _plain(values: Mapping[str, float | str]) -> dict[str, Any]:
    """JSON values: NaN becomes None."""
    return {k: v if isinstance(v, str) else known(v) for k, v in values.items()}
