"""Find a task of pre-training by its name; the list is in :mod:`hstf.config.pretrain`."""

from importlib import import_module

from hstf.config.pretrain import TASKS
from hstf.method.pretraining.task import PretrainingTask, TaskSettings


def task_class(name: str) -> type[PretrainingTask]:
    """Return the class of a task.

    Example:
        >>> task_class("denoise").__name__
        'Denoise'
    """
    module, _, attribute = TASKS[name].partition(":")
    found: type[PretrainingTask] = getattr(import_module(module), attribute)
    return found


def build_task(settings: TaskSettings) -> PretrainingTask:
    """Return the task that ``pretrain.task`` names.

    Example:
        >>> callable(build_task)
        True
    """
    return task_class(settings.section.task)(settings)
