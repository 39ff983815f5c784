"""What a stage is given."""

from collections.abc import Sequence
from typing import Any

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split, read_cases
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv


def unlabelled_shard(config: Config, number: int, shard: str) -> list[Case]:
    """The cases of ``shard``.

    Raises:
        HstfError: there is no such round or shard, or it holds other cases than unlabelled ones.
    """
    if not 1 <= number <= config.rounds:
        raise HstfError(f"--round {number}: pseudo-labels belong to rounds 1 to {config.rounds}.")
    cases = read_cases(config).shard(shard, config.shard_size)
    if any(case.split is not Split.UNLABELLED for case in cases):
        raise HstfError(
            f"--shard {shard}: only unlabelled cases have pseudo-labels. Name a shard unlabelled_<k>."
        )
    return cases


def joined_rows(config: Config, table_of: Any, folder: str) -> list[dict[str, str]]:
    """Rows of the tables ``table_of(shard)`` of all unlabelled shards; file names get ``folder`` before them."""
    shards: Sequence[str] = list(read_cases(config).shards(Split.UNLABELLED, config.shard_size))
    rows = [row for shard in shards for row in read_csv(table_of(shard))]
    for row in rows:
        row["files"] = ";".join(f"{folder}/{name}" for name in row["files"].split(";") if name)
    return rows
