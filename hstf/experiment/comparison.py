"""The experiments of a comparison: a cell for each method and seed, and what cells have in common.

A cell differs from the experiment that it belongs to only by ``method`` and ``seed``. Its files are
stored in the folder ``compare/`` of this experiment. Scans are checked, planned and preprocessed
once. A warm-up is trained once for each seed; the experiment itself trains the warm-up of its own
seed. A method that needs other data or another warm-up makes its own. The two methods with the same
pre-training have one warm-up after it.

The control of an experiment (``evaluate.control``) is the cell of ``supervised`` with the seed of
the experiment, with or without a section ``compare:``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hstf.config.compare import CompareConfig
from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.config.pretrain import NO_TASK
from hstf.experiment.cases import Case, CaseSheet, Split
from hstf.experiment.dependencies import stage_parameters
from hstf.experiment.layout import Layout
from hstf.experiment.reuse import DATA_STAGES
from hstf.runtime.errors import HstfError

BASE_METHOD = "hstf"
CONTROL_METHOD = "supervised"


@dataclass(frozen=True)
class Cell:
    """A method with a seed."""

    method: str
    seed: int
    config: Config
    """The whole configuration of its experiment."""

    @property
    def name(self) -> str:
        """Name of its experiment: its folder in ``compare/`` and the prefix of its rules."""
        return self.config.experiment

    @property
    def has_common_warmup(self) -> bool:
        """Whether the cell reuses the warm-up that most methods have in common."""
        home = self.config.reuse.warmup
        own = _warmup_name(self.seed, self.config.pretrain.task)
        is_common = self.config.pretrain.task == NO_TASK or home is None or Path(home).name != own
        return home is not None and is_common

    @property
    def results(self) -> list[Path]:
        """Tables of the test cases of each round, and of the last round at other scales."""
        layout = Layout.of(self.config)
        last = self.config.rounds
        tables = [layout.evaluation_cases(number) for number in range(last + 1)]
        if self.config.compare is not None and self.config.compare.scales:
            tables.append(layout.evaluation_scales(last))
        return tables


def cells_of(config: Config) -> list[Cell]:
    """Return the cells of a comparison, method by method.

    Args:
        config: the whole configuration of the experiment.

    Returns:
        No cells without a section ``compare:``. An experiment with another method than ``hstf`` has
        no cells either: it runs only this method.

    Raises:
        HstfError: if a method or a seed occurs twice.
    """
    section = config.compare
    if section is None or config.method != BASE_METHOD:
        return []
    _refuse_repeats(section)
    cells = []
    for method in section.methods:
        for seed in section.seeds:
            cells.append(Cell(method, seed, _cell_config(config, method, seed)))
    return cells


def control_of(config: Config, sheet: CaseSheet) -> Cell | None:
    """Return the control of an experiment, which learns from the labels only.

    Args:
        config: the whole configuration of the experiment.
        sheet: its case sheet.

    Returns:
        None if ``evaluate.control`` is off or ignored, see :func:`control_problem`.
    """
    if not config.evaluate.control or control_problem(config.method, config.rounds, sheet):
        return None
    derived = _cell_config(config, CONTROL_METHOD, config.seed)
    return Cell(CONTROL_METHOD, config.seed, derived)


def control_problem(method: str, rounds: int, sheet: CaseSheet) -> str:
    """Return why an experiment cannot have a control; empty if it can.

    Args:
        method: the method of the experiment.
        rounds: its rounds of self-training.
        sheet: its case sheet.
    """
    if method != BASE_METHOD:
        return f"the method is {method!r}, and only {BASE_METHOD!r} has a control"
    if rounds == 0:
        return "there are no rounds of self-training"
    if not sheet.of(Split.UNLABELLED):
        return "the case sheet has no unlabelled scans"
    if not sheet.of(Split.TEST):
        return "the case sheet has no test cases, on which it would be scored"
    return ""


def control_messages(config: Config, sheet: CaseSheet) -> list[str]:
    """Return a sentence if ``evaluate.control`` is on and ignored."""
    problem = control_problem(config.method, config.rounds, sheet)
    if not config.evaluate.control or not problem:
        return []
    return [f"evaluate.control: true is ignored, because {problem}."]


def control_layout(layout: Layout, seed: int) -> Layout:
    """Return the paths of the control of the experiment with ``layout``.

    Its data and its warm-up are those of the experiment.
    """
    return replace(layout, root=layout.compare / _cell_name(CONTROL_METHOD, seed))


def control_results(layout: Layout, number: int, sheet: CaseSheet) -> list[Path]:
    """Return the scores of the control that the report reads.

    Args:
        layout: the paths of the control.
        number: the last round; earlier rounds of the control are not scored for the report.
        sheet: the case sheet of the experiment.
    """
    files = [layout.evaluation_cases(number), layout.evaluation_summary(number)]
    if sheet.of(Split.VALIDATION):
        files += [layout.validation_table(number), layout.validation_summary(number)]
    return files


def experiments(config: Config, control: Cell | None = None) -> dict[str, Config]:
    """Return the experiments that a comparison runs, by name, in addition to ``config`` itself.

    These are the cells, and the data and warm-ups that several cells have in common.

    Args:
        config: the whole configuration of the experiment.
        control: its control, if it has one.

    Raises:
        HstfError: if a method or a seed occurs twice.
    """
    found: dict[str, Config] = {}
    root = Layout.of(config).compare
    for cell in cells_of(config):
        reuse = cell.config.reuse
        data_name = _data_name(cell.method)
        if reuse.data == str(root / data_name) and data_name not in found:
            found[data_name] = _derived(
                config,
                data_name,
                cell.method,
                cell.seed,
                {},
            )
        task = cell.config.pretrain.task
        for warmup_name, method in (
            (_warmup_name(cell.seed), BASE_METHOD),
            (_warmup_name(cell.seed, task), cell.method),
        ):
            if reuse.warmup == str(root / warmup_name) and warmup_name not in found:
                data = {"data": reuse.data}
                found[warmup_name] = _derived(
                    config,
                    warmup_name,
                    method,
                    cell.seed,
                    data,
                )
        found[cell.name] = cell.config
    if control is not None:
        found[control.name] = control.config
    return found


def refuse_no_comparison(config: Config) -> None:
    """Refuse a configuration without a comparison.

    Raises:
        HstfError: if there is no section ``compare:``, or if the experiment has another method than
            ``hstf``.
    """
    if config.compare is None:
        raise HstfError(
            "compare: the configuration has no section 'compare:', which names methods and seeds."
        )
    refuse_method(config)


def refuse_method(config: Config) -> None:
    """Refuse another method than ``hstf``, from which a comparison starts.

    Raises:
        HstfError: if the experiment has another method.
    """
    if config.method != BASE_METHOD:
        raise HstfError(
            f"compare: this experiment has the method {config.method!r}, and all methods would be"
            " based on it. Leave 'method' out and name the methods in compare.methods."
        )


def _refuse_repeats(section: CompareConfig) -> None:
    values_by_key: dict[str, Sequence[object]] = {
        "methods": section.methods,
        "seeds": section.seeds,
    }
    for key, values in values_by_key.items():
        if len(set(values)) < len(values):
            raise HstfError(
                f"compare.{key}: {', '.join(map(str, values))} has a value twice. Remove one."
            )


def _cell_config(
    config: Config,
    method: str,
    seed: int,
) -> Config:
    """Return the configuration of a cell, which names the experiments whose work it reuses."""
    layout = Layout.of(config)
    name = _cell_name(method, seed)
    own = _derived(
        config,
        name,
        method,
        seed,
        {},
    )
    usual = _derived(
        config,
        name,
        BASE_METHOD,
        seed,
        {},
    )
    if _data_key(own) != _data_key(usual):
        own_data = {"data": str(layout.compare / _data_name(method))}
        return _derived(
            config,
            name,
            method,
            seed,
            own_data,
        )
    reuse: dict[str, str | None] = {"data": str(layout.data)}
    if stage_parameters(own, "warmup") == stage_parameters(usual, "warmup"):
        is_trained_here = seed == config.seed
        home = layout.warmup if is_trained_here else layout.compare / _warmup_name(seed)
        if _pretraining_key(own) != _pretraining_key(usual):
            home = layout.compare / _warmup_name(seed, own.pretrain.task)
        reuse["warmup"] = str(home)
    return _derived(
        config,
        name,
        method,
        seed,
        reuse,
    )


def _data_key(config: Config) -> list[Any]:
    """Return what the preprocessed scans depend on in addition to the case sheet."""
    key: list[Any] = [config.withheld_labels]
    key += [stage_parameters(config, stage) for stage in DATA_STAGES]
    return key


def _pretraining_key(config: Config) -> dict[str, Any]:
    """Return what the pre-training depends on in addition to the scans; empty if it is off."""
    return stage_parameters(config, "pretrain") if config.pretrain.is_on else {}


def _data_name(method: str) -> str:
    return f"{method}_data"


def _cell_name(method: str, seed: int) -> str:
    return f"{method}_seed_{seed}"


def _warmup_name(seed: int, task: str = NO_TASK) -> str:
    return f"warmup_seed_{seed}" if task == NO_TASK else f"warmup_{task}_seed_{seed}"


def _derived(
    config: Config,
    name: str,
    method: str,
    seed: int,
    reuse: Mapping[str, str | None],
) -> Config:
    """Return ``config`` as an experiment of its own in ``compare/``.

    Manual overrides are left out, because they would hide the differences of the methods.
    """
    folder = Layout.of(config).compare
    changes = {
        "experiment": name,
        "output": str(folder),
        "overrides": str(folder / name / "overrides"),
        "method": method,
        "seed": seed,
        "reuse": dict(reuse),
    }
    content = config.model_dump(mode="json") | changes
    # A method that collapses is a result, too.
    content["monitor"]["on_collapse"] = "continue"
    content["evaluate"]["control"] = False
    return resolve_config(content, source=f"compare: {name}")


def scaled_cases(
    section: CompareConfig,
    cases: Sequence[Case],
) -> list[Case]:
    """Return the test cases that are scored at other scales, evenly spaced in the case sheet.

    Args:
        section: the section ``compare:``.
        cases: all test cases.
    """
    count = section.scale_cases
    if count == 0 or count >= len(cases):
        return list(cases)
    return [cases[k * len(cases) // count] for k in range(count)]
