"""The experiments of a comparison: a cell for each method and seed, and what several cells have in common.

A cell differs from the experiment that it belongs to by ``method`` and ``seed`` alone, and lies below its folder
``compare/``. Scans are checked, planned and preprocessed once, and a warm-up is trained once for each seed, by the
experiment itself where the seed is its own. A method that needs other data or another warm-up makes its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hstf.config.compare import CompareConfig
from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.cases import Case
from hstf.experiment.dependencies import stage_parameters
from hstf.experiment.layout import Layout
from hstf.experiment.reuse import DATA_STAGES
from hstf.runtime.errors import HstfError

BASE_METHOD = "hstf"


@dataclass(frozen=True)
class Cell:
    """A method with a seed."""

    method: str
    seed: int
    config: Config
    """The whole configuration of its experiment."""

    @property
    def name(self) -> str:
        """Name of its experiment, which is its folder below ``compare/`` and the prefix of its rules."""
        return self.config.experiment

    @property
    def results(self) -> list[Path]:
        """Scores of the test cases by the model of each round, and at other scales by the last."""
        layout, rounds = Layout.of(self.config), self.config.rounds
        scored = [layout.evaluation_cases(number) for number in range(rounds + 1)]
        asked = self.config.compare is not None and self.config.compare.scales
        return [*scored, layout.evaluation_scales(rounds)] if asked else scored


def cells(config: Config) -> list[Cell]:
    """The cells of a comparison, method by method; none without a ``compare:`` section, or where the experiment has itself
    another method than ``hstf``: then it is that method alone.

    Raises:
        HstfError: a method or seed is named twice.
    """
    if config.compare is None or config.method != BASE_METHOD:
        return []
    _refuse_repeats(config.compare)
    return [
        Cell(method, seed, _cell_config(config, method, seed))
        for method in config.compare.methods
        for seed in config.compare.seeds
    ]


def experiments(config: Config) -> dict[str, Config]:
    """By name, the experiments that a comparison runs besides ``config`` itself: the cells, and what they share.

    Raises:
        HstfError: as :func:`cells`.
    """
    found: dict[str, Config] = {}
    root = Layout.of(config).compare
    for cell in cells(config):
        reuse = cell.config.reuse
        if reuse.data == str(root / _data_name(cell.method)):
            found.setdefault(
                _data_name(cell.method),
                _derived(config, _data_name(cell.method), cell.method, cell.seed, {}),
            )
        if reuse.warmup == str(root / _warmup_name(cell.seed)):
            shared = {"data": reuse.data}
            name = _warmup_name(cell.seed)
            found.setdefault(name, _derived(config, name, BASE_METHOD, cell.seed, shared))
        found[cell.name] = cell.config
    return found


def refuse_no_comparison(config: Config) -> None:
    """Refuse a configuration without a comparison.

    Raises:
        HstfError: if there is no section ``compare:``, or if the experiment has another method than
            ``hstf``.
    """
    if config.compare is None:
        raise HstfError(
            "compare: the configuration has no section 'compare:'. Name the methods and seeds there."
        )
    refuse_method(config)


def refuse_method(config: Config) -> None:
    """Refuse another method than ``hstf``, from which a comparison starts.

    Raises:
        HstfError: if the experiment has another method.
    """
    if config.method != BASE_METHOD:
        raise HstfError(
            f"compare: this experiment has the method {config.method!r}, which would be the basis of"
            " all methods. Leave 'method' out and name the methods in compare.methods."
        )


def _refuse_repeats(section: CompareConfig) -> None:
    for key in ("methods", "seeds"):
        values = getattr(section, key)
        if len(set(values)) < len(values):
            raise HstfError(f"compare.{key}: {', '.join(map(str, values))} names one twice.")


def _cell_config(config: Config, method: str, seed: int) -> Config:
    """The configuration of a cell, with the experiments that it takes data and warm-up from."""
    name, root = f"{method}_seed_{seed}", Layout.of(config)
    own, usual = (
        _derived(config, name, method, seed, {}),
        _derived(config, name, BASE_METHOD, seed, {}),
    )
    if _data_key(own) != _data_key(usual):
        return _derived(
            config, name, method, seed, {"data": str(root.compare / _data_name(method))}
        )
    reuse = {"data": str(root.data)}
    if stage_parameters(own, "warmup") == stage_parameters(usual, "warmup"):
        home = root.warmup if seed == config.seed else root.compare / _warmup_name(seed)
        reuse["warmup"] = str(home)
    return _derived(config, name, method, seed, reuse)


def _data_key(config: Config) -> list[Any]:
    """What the preprocessed scans depend on, besides the case sheet."""
    return [config.withheld_labels, *(stage_parameters(config, stage) for stage in DATA_STAGES)]


def _data_name(method: str) -> str:
    return f"{method}_data"


def _warmup_name(seed: int) -> str:
    return f"warmup_seed_{seed}"


def _derived(
    config: Config, name: str, method: str, seed: int, reuse: Mapping[str, str | None]
) -> Config:
    """``config`` as an experiment of its own below ``compare/``. Persons' overrides are left out: methods are compared."""
    folder = Layout.of(config).compare
    changes = {
        "experiment": name, "output": str(folder), "overrides": str(folder / name / "overrides"), "method": method,
        "seed": seed, "reuse": dict(reuse),
    }  # fmt: skip
    return resolve_config(config.model_dump(mode="json") | changes, source=f"compare: {name}")


def scaled_cases(section: CompareConfig, cases: Sequence[Case]) -> list[Case]:
    """Return the test cases that are scored at other scales: ``scale_cases`` of them, evenly spaced.

    Args:
        section: the section ``compare:``.
        cases: all test cases.
    """
    count = section.scale_cases
    if count == 0 or count >= len(cases):
        return list(cases)
    return [cases[k * len(cases) // count] for k in range(count)]
