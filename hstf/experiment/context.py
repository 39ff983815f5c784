"""What a stage is given: its own part of the configuration, the files, the cases and the round."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import Case, CaseSheet, Split, names_of, read_cases
from hstf.experiment.dependencies import STAGES, stage_parameters
from hstf.experiment.layout import Layout
from hstf.experiment.reuse import refuse_reused
from hstf.experiment.schedule import Schedule
from hstf.runtime.errors import HstfError
from hstf.runtime.shards import check_case_ids
from hstf.runtime.tables import Table


@dataclass(frozen=True)
class StageContext:
    """Everything that a stage may read.

    Example:
        >>> context = StageContext.of(load_config(Path("config/config.yaml")), "teacher", number=1)
        >>> context.config.teacher.scales
        (0.8, 1.0, 1.25)
    """

    stage: str
    round: int
    config: Config
    """The keys that the stage declares in :data:`hstf.experiment.dependencies.STAGES`, as they are
    in this round. Reading another key raises AttributeError."""
    layout: Layout
    schedule: Schedule
    parameters: dict[str, Any]
    """Version and configuration of the stage, for the records of its cases."""
    device: str
    """``auto``, ``cpu`` or ``cuda``."""
    experiment: str
    """Name of the experiment, for texts."""
    _of_round: Callable[[int], Config]
    _read_sheet: Callable[[], CaseSheet]
    _shard_size: int | None

    @classmethod
    def of(cls, config: Config, stage: str, number: int = 0) -> "StageContext":
        """Return the context of a stage.

        Args:
            config: the whole configuration.
            stage: name of the stage.
            number: the round; 0 is the warm-up.

        Raises:
            HstfError: if the stage would write into an experiment that this one reuses.
        """
        refuse_reused(config, stage, number)
        dependencies = STAGES[stage]
        keys = (*dependencies.keys, *dependencies.free_keys)
        of_round = partial(_restricted_to_round, config, keys)
        return cls(
            stage=stage,
            round=number,
            config=of_round(number),
            layout=Layout.of(config),
            schedule=Schedule.of(config),
            parameters=stage_parameters(config, stage, number),
            device=config.device,
            experiment=config.experiment,
            _of_round=of_round,
            _read_sheet=lambda: read_cases(config),
            _shard_size=config.shard_size,
        )

    @classmethod
    def of_arguments(cls, args: argparse.Namespace, stage: str) -> "StageContext":
        """Return the context of a stage from the options ``--config`` and ``--round``.

        Raises:
            HstfError: if the configuration is not valid, or as :meth:`of`.
        """
        number = getattr(args, "round", None) or 0
        return cls.of(load_config(*args.config), stage, number)

    @cached_property
    def sheet(self) -> CaseSheet:
        """The case sheet, read once."""
        return self._read_sheet()

    def config_of_round(self, number: int) -> Config:
        """Return the keys that the stage declares as they are in another round."""
        return self._of_round(number)

    def cases(self, split: Split) -> list[Case]:
        """Return the cases of a split, in the order of the sheet."""
        return self.sheet.of(split)

    def shards(self, split: Split) -> dict[str, list[Case]]:
        """Return the cases of a split by shard."""
        return self.sheet.shards(split, self._shard_size)

    def shard(self, name: str) -> list[Case]:
        """Return the cases of a shard.

        Raises:
            HstfError: if there is no such shard.
        """
        return self.sheet.shard(name, self._shard_size)

    def unlabelled_shard(self, name: str) -> list[Case]:
        """Return the cases of a shard of unlabelled cases in a round of self-training.

        Raises:
            HstfError: if there is no such round or shard, or if it has other cases.
        """
        self.schedule.check(self.round)
        cases = self.shard(name)
        if any(case.split is not Split.UNLABELLED for case in cases):
            raise HstfError(
                f"--shard {name}: only unlabelled cases have pseudo-labels."
                " Use a shard unlabelled_<k>."
            )
        return cases

    def joined_records(
        self, table: Table, path_of: Callable[[str], Path], folder: str
    ) -> list[dict[str, Any]]:
        """Read the tables of all unlabelled shards as one.

        Args:
            table: description of the tables.
            path_of: returns the table of a shard.
            folder: folder of these tables; it is put before the names of the files in them.

        Raises:
            HstfError: if a table is missing or has other cases than its shard.
        """
        records = []
        for shard, cases in self.shards(Split.UNLABELLED).items():
            path = path_of(shard)
            rows = table.records(path)
            check_case_ids(rows, names_of(cases), path)
            records += rows
        for record in records:
            record["files"] = [f"{folder}/{name}" for name in record["files"]]
        return records


def _restricted_to_round(config: Config, keys: tuple[str, ...], number: int) -> Config:
    return config.for_round(number).restricted_to(keys)
