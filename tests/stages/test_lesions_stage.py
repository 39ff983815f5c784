"""The stage ``lesions``: bounds of nested regions."""

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from support.pseudo_label_files import tta_summary

from hstf.config.experiment import Config
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.plr.cleaning import JudgedLesion, LabelCleaner
from hstf.method.plr.lesions import LesionModel
from hstf.method.tta_summary import TtaSummary
from hstf.stages.lesions import bounds_from_outside

CONFIG = Config.model_validate(
    {
        "labels": {"background": 0, "oedema": 1, "core": 2},
        "regions": {"tumour": ["oedema", "core"], "tumour_core": ["core"]},
        "lesions": ["tumour", "tumour_core"],
    }
)


def model(intercept: float) -> LesionModel:
    """Return a model with one lesion in each case, and the log odds plus ``intercept``."""
    return LesionModel(
        intercept=intercept,
        weights=(1.0, 0.0, 0.0),
        centre=(0.0, 0.0, 0.0),
        scale=(1.0, 1.0, 1.0),
        possible=0.5,
        components=9,
        real=5,
        lesions_per_case=1.0,
    )


def scan(tumour: float, core: float) -> TtaSummary:
    """Return a tumour of this probability, with a core of this probability."""
    p = np.zeros((3, 12, 12, 12))
    p[0] = 1
    p[:, 2:10, 2:10, 2:10] = np.array([1 - tumour, 0.9 * tumour, 0.1 * tumour])[:, None, None, None]
    inner = np.array([0.2 * (1 - core), 0.8 * (1 - core), core])
    p[:, 4:8, 4:8, 4:8] = inner[:, None, None, None]
    zeros = np.zeros((3, 12, 12, 12), np.uint8)
    return tta_summary(np.rint(255 * p).astype(np.uint8), zeros, {})


@pytest.mark.parametrize("unsure_core", [0.85, 0.95])
def test_bounds_from_outside_ranks_no_core_of_a_dropped_tumour(unsure_core: float) -> None:
    """Two sure tumours, one of them with a core, and two unsure tumours with a surer core."""
    models = {"tumour_core": model(-3.0), "tumour": model(-1.2)}
    scans = [scan(0.95, 0.0), scan(0.95, 0.8), scan(0.5556, unsure_core), scan(0.5556, unsure_core)]
    rules = AnatomyRules(classes=CONFIG.structures, rules={})

    def judged(bounds: Mapping[str, float]) -> Iterator[JudgedLesion]:
        all_bounds = {"tumour": 0.0, "tumour_core": 0.0} | dict(bounds)
        cleaner = LabelCleaner(CONFIG.refine, rules, 1.0, models, 1.0, all_bounds)
        for case in scans:
            yield from cleaner.clean(case).lesions

    bounds = bounds_from_outside(judged, models, len(scans), CONFIG)
    assert (bounds["tumour"].components, bounds["tumour"].kept) == (4, 2)
    assert (bounds["tumour_core"].components, bounds["tumour_core"].kept) == (1, 1)
    final = judged({name: bound.probability for name, bound in bounds.items()})
    kept = [lesion.structure for lesion in final if lesion.kept]
    assert sorted(kept) == ["tumour", "tumour", "tumour_core"]
