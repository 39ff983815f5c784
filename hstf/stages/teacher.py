"""``hstf teacher``: the previous round's models predict the unlabelled cases; no label is read.

Where students were cross-fitted, a case is predicted by those that have not learned from it (:mod:`hstf.method.cross_fitting`). The same
code predicts the labelled cases of a fold by the warm-up member that has not seen them.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import Case, Split, read_cases
from hstf.experiment.dependencies import stage_parameters
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Plan
from hstf.experiment.schedule import members
from hstf.imaging.arrays import read_array
from hstf.method.cross_fitting import teachers_by_case
from hstf.method.inference import SlidingWindow
from hstf.method.tta import COLUMNS, predict_views, team_label, view_files, write_views
from hstf.models.base import SegmentationNetwork
from hstf.models.registry import load_network, load_snapshots
from hstf.runtime.devices import choose_device
from hstf.runtime.errors import HstfError, join_faults
from hstf.runtime.files import read_csv, sha256_file
from hstf.runtime.shards import CaseWork, file_faults, run_shard
from hstf.stages.arguments import add_config, add_round, add_shard


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_round(parser)
    add_shard(parser)


def run(args: argparse.Namespace) -> int:
    teacher(load_config(*args.config), args.round, args.shard)
    return 0


def teacher(config: Config, number: int, shard: str) -> int:
    """Predict the unlabelled cases of ``shard`` with the members of round ``number - 1`` that may label them.

    Returns how many were computed; the others were up to date.

    Raises:
        HstfError: round 0 has no teacher, a wrong shard, weights or preprocessed files missing or changed.
    """
    if number < 1:
        raise HstfError(
            f"--round {number}: the teacher belongs to rounds from 1 on; round 0 is the warm-up."
        )
    cases = read_cases(config).shard(shard, config.shard_size)
    if any(case.split is not Split.UNLABELLED for case in cases):
        raise HstfError(
            f"--shard {shard}: the teacher predicts unlabelled cases alone. Name a shard unlabelled_<k>."
        )
    layout = Layout.of(config)
    weights = {name: layout.weights(number - 1, name) for name in members(config, number - 1)}
    teachers = teachers_by_case(config, number, [case.case_id for case in cases])
    return predict_cases(
        config, number, cases, weights, teachers, layout.teacher_table(number, shard)
    )


def predict_out_of_fold(config: Config, member: str, cases: list[Case], weights: Path) -> None:
    """Predict the labelled ``cases`` that ``member`` has not seen, into ``round_0/out_of_fold``."""
    teachers = {case.case_id: [member] for case in cases}
    predict_cases(
        config, 0, cases, {member: weights}, teachers, Layout.of(config).out_of_fold_table(member)
    )


def predict_cases(
    config: Config, number: int, cases: Sequence[Case], weights: Mapping[str, Path],
    teachers: Mapping[str, Sequence[str]], table: Path,
) -> int:  # fmt: skip
    """Write the views of ``cases`` beside ``table``, as round ``number`` is configured.

    Cases that are done are skipped; networks are loaded when the first case needs them. Returns how many were computed.

    Args:
        weights: of each member.
        teachers: the members that predict each case.

    Raises:
        HstfError: weights or preprocessed files are missing or changed.
    """
    layout = Layout.of(config)
    plan = Plan.load(layout.plan)
    digests = {name: _fingerprint(path) for name, path in weights.items()}
    patch = str(tuple(plan.patch_size))
    images = image_fingerprints(config, cases)
    writer = CaseWriter(config.for_round(number), plan, weights)
    works = [
        CaseWork(
            case.case_id,
            {f"weights of {name}": digests[name] for name in teachers[case.case_id]}
            | {"patch": patch, "image": images[case.case_id]},
            view_files(table.parent / case.case_id),
            partial(
                writer.write, case.case_id, teachers[case.case_id], table.parent / case.case_id
            ),
        )
        for case in cases
    ]
    title = f"{table.parent.name} {number} {table.stem}"
    return run_shard(
        table, stage_parameters(config, "teacher", number), works, ["members", *COLUMNS], title
    )


def _fingerprint(weights: Path) -> str:
    if not weights.is_file():
        raise HstfError(
            f"{weights}: the weights are missing. Run the warmup or student stage first."
        )
    return sha256_file(weights)


def image_fingerprints(config: Config, cases: Sequence[Case]) -> dict[str, str]:
    """SHA-256 of the preprocessed image of each case, from the shards' tables, checked against the files.

    Raises:
        HstfError: cases are not preprocessed, or their files are lost or changed; all are named.
    """
    layout, sheet = Layout.of(config), read_cases(config)
    wanted = {case.case_id for case in cases}
    shards = {
        split: sheet.shards(split, config.shard_size) for split in {case.split for case in cases}
    }
    names = [
        name
        for parts in shards.values()
        for name, part in parts.items()
        if wanted & {c.case_id for c in part}
    ]
    rows = {
        row["case_id"]: row for name in names for row in read_csv(layout.preprocessed_table(name))
    }
    missing = sorted(wanted - rows.keys())
    faults = [
        f"{name}: is in no table of {layout.preprocessed}; run the preprocess stage"
        for name in missing
    ]
    faults += [
        fault
        for name in sorted(wanted - set(missing))
        for fault in file_faults(rows[name], layout.preprocessed)
    ]
    if faults:
        raise join_faults("the preprocessed cases are not as they should be.", faults)
    return {name: _digest(rows[name], "image.b2nd") for name in wanted}


def _digest(row: Mapping[str, str], name: str) -> str:
    digests = zip(row["files"].split(";"), row["sha256"].split(";"), strict=True)
    return next(digest for file, digest in digests if Path(file).name == name)


@dataclass(frozen=True)
class CaseWriter:
    """Predicts a preprocessed case and writes its views."""

    config: Config
    plan: Plan
    weights: Mapping[str, Path]

    @cached_property
    def networks(self) -> dict[str, dict[str, nn.Module]]:
        """The networks of each member, loaded when the first case needs one."""
        return {
            name: networks_of(name, load_network(path, self.device)[0])
            for name, path in self.weights.items()
        }

    @cached_property
    def snapshots(self) -> dict[str, list[tuple[SegmentationNetwork, ...]]]:
        """The networks of each member at earlier steps of its training, if these were kept (``snapshots``)."""
        return {
            name: [tuple(network.parts) for network in load_snapshots(path, self.device)]
            for name, path in self.weights.items()
        }

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self.config.device)

    def write(self, case_id: str, members: Sequence[str], folder: Path) -> dict[str, Any]:
        """Write the views of a case by ``members`` into ``folder``; returns its row."""
        section = self.config.teacher
        path = Layout.of(self.config).preprocessed / case_id / "image.b2nd"
        image = torch.from_numpy(read_array(path)).float()
        window = SlidingWindow.of(self.plan, section, self.device)
        structures, voxel_ml = self.config.structures, prod(self.plan.spacing) / 1000
        networks = {
            name: part for member in members for name, part in self.networks[member].items()
        }
        try:
            views = predict_views(
                networks, image, window, section.scales, section.flip_axes, structures, voxel_ml
            )  # fmt: skip
            teams = zip(*(self.snapshots[member] for member in members), strict=False)
            views = views.with_snapshots(
                (team_label(sum(team, ()), image, window) for team in teams), structures
            )
        except HstfError as error:
            raise HstfError(f"{case_id}: {error}") from error
        write_views(folder, views, self.config.preprocess.chunk)
        return {"members": ";".join(members)} | views.row()


def networks_of(member: str, network: SegmentationNetwork) -> dict[str, nn.Module]:
    """What predicts for ``member``: its network or, of a pair, both, whose disagreement is a doubt like that of members."""
    if len(network.parts) == 1:
        return {member: network}
    return {
        f"{member}.{name}": part
        for name, part in zip(("first", "second"), network.parts, strict=True)
    }
