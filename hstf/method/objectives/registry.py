"""Find the training objective of the student by its name.

An objective is a function of the training state and a batch that returns the named terms of the
loss. All objectives are trained by the same loop (:mod:`hstf.training.loop`), so that a comparison
of methods compares the objectives only. The list of objectives is :mod:`hstf.config.objectives`.
"""

from importlib import import_module

from hstf.config.experiment import Config
from hstf.config.objectives import OBJECTIVES
from hstf.training.loop import Objective


def student_objective(config: Config) -> Objective:
    """Return the objective that ``student.objective`` names.

    Example:
        >>> type(student_objective(Config())).__name__
        'SelfTraining'
    """
    return build_objective(config.student.objective, config)


def build_objective(name: str, config: Config) -> Objective:
    """Return the objective ``name`` with the settings of ``config``."""
    module, _, function = OBJECTIVES[name].partition(":")
    objective: Objective = getattr(import_module(module), function)(config)
    return objective
