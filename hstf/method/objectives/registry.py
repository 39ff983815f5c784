"""What a student learns from a batch: an objective for each method, all in the same training loop."""

from collections.abc import Callable

from hstf.config.experiment import Config
from hstf.method.objectives.bcp import bcp
from hstf.method.objectives.cross_teaching import cross_teaching
from hstf.method.objectives.mean_teacher import mean_teacher
from hstf.method.objectives.self_training import self_training
from hstf.method.objectives.uamt import uamt
from hstf.training.loop import Objective

OBJECTIVES: dict[str, Callable[[Config], Objective]] = {
    "self_training": self_training,
    "mean_teacher": mean_teacher,
    "uamt": uamt,
    "cross_teaching": cross_teaching,
    "bcp": bcp,
}


def student_objective(config: Config) -> Objective:
    """The objective that ``student.objective`` names."""
    return OBJECTIVES[config.student.objective](config)
