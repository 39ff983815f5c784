"""Predict whole scans with an ensemble of networks: the teacher of the self-training rounds.

Each ensemble member predicts a scan at several scales and mirrored along several axes (test-time augmentation, TTA). The
mean of all these predictions is the soft pseudo-label, and their spread is the uncertainty (:mod:`hstf.method.tta`).
Which members predict a case depends on what they have learned from: after cross-fitting only members that have not seen
the case (:mod:`hstf.method.cross_fitting`), and in the warm-up only the fold member that held it out.

Cases are processed in shards: a case is skipped when its image, the weights and the configuration are unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, read_cases
from hstf.experiment.dependencies import stage_parameters
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Plan
from hstf.imaging.arrays import read_array
from hstf.method.inference import SlidingWindow
from hstf.method.tta import COLUMNS, predict_views, team_label, view_files, write_views
from hstf.models.base import SegmentationNetwork
from hstf.models.registry import load_network, load_snapshots
from hstf.runtime.devices import choose_device
from hstf.runtime.errors import HstfError, join_faults
from hstf.runtime.files import read_csv, sha256_file
from hstf.runtime.shards import CaseWork, file_faults, run_shard

IMAGE = "image.b2nd"
"""File name of a preprocessed image."""


def predict_cases(
    config: Config,
    number: int,
    cases: Sequence[Case],
    weights: Mapping[str, Path],
    teachers: Mapping[str, Sequence[str]],
    table: Path,
) -> int:
    """Predict ``cases`` and write the results into one folder for each case, next to ``table``.

    Cases that are up to date are skipped. Networks are loaded only when a case needs them.

    Args:
        config: configuration of the experiment.
        number: round whose teacher settings are used.
        cases: the cases to predict; they must be preprocessed.
        weights: weights file of each ensemble member.
        teachers: names of the members that predict each case, by ``case_id``.
        table: CSV table of the shard.

    Returns:
        Number of cases that were computed.

    Raises:
        HstfError: if weights or preprocessed files are missing or have changed.
    """
    plan = Plan.load(Layout.of(config).plan)
    weights_digests = {name: _weights_digest(path) for name, path in weights.items()}
    image_digests = preprocessed_image_digests(config, cases)
    predictor = CasePredictor(config.for_round(number), plan, weights)
    works = []
    for case in cases:
        names = teachers[case.case_id]
        folder = table.parent / case.case_id
        inputs = {f"weights of {name}": weights_digests[name] for name in names}
        inputs["patch"] = str(tuple(plan.patch_size))
        inputs["image"] = image_digests[case.case_id]
        run = partial(predictor.write, case.case_id, names, folder)
        works.append(CaseWork(case.case_id, inputs, view_files(folder), run))
    parameters = stage_parameters(config, "teacher", number)
    title = f"{table.parent.name} {number} {table.stem}"
    return run_shard(table, parameters, works, ["members", *COLUMNS], title)


def predict_out_of_fold(config: Config, member: str, cases: Sequence[Case], weights: Path) -> None:
    """Predict the labelled ``cases`` that the warm-up member ``member`` has not learned from.

    The results are stored in ``round_0/out_of_fold``. The stage ``calibrate`` compares them with the labels.

    Raises:
        HstfError: if weights or preprocessed files are missing or have changed.
    """
    teachers = {case.case_id: [member] for case in cases}
    table = Layout.of(config).out_of_fold_table(member)
    predict_cases(config, 0, cases, {member: weights}, teachers, table)


def _weights_digest(weights: Path) -> str:
    if not weights.is_file():
        raise HstfError(
            f"{weights}: the weights are missing. Run the warmup or student stage first."
        )
    return sha256_file(weights)


def preprocessed_image_digests(config: Config, cases: Sequence[Case]) -> dict[str, str]:
    """Return the SHA-256 of the preprocessed image of each case, after checking the files.

    Raises:
        HstfError: if cases are not preprocessed, or files are missing or have changed; the message lists all of them.
    """
    folder = Layout.of(config).preprocessed
    rows = _preprocessed_rows(config, cases)
    problems = []
    for case_id in sorted(case.case_id for case in cases):
        if case_id not in rows:
            problems.append(f"{case_id}: is in no table of {folder}; run the preprocess stage")
    for case_id in sorted(rows):
        problems += file_faults(rows[case_id], folder)
    if problems:
        raise join_faults("the preprocessed cases are not as they should be.", problems)
    return {case_id: _image_digest(row) for case_id, row in rows.items()}


def _preprocessed_rows(config: Config, cases: Sequence[Case]) -> dict[str, dict[str, str]]:
    """Return the rows of ``cases`` in the tables of the preprocess stage, by ``case_id``."""
    layout = Layout.of(config)
    sheet = read_cases(config)
    wanted = {case.case_id for case in cases}
    rows = {}
    for split in {case.split for case in cases}:
        for shard, shard_cases in sheet.shards(split, config.shard_size).items():
            if wanted.isdisjoint(case.case_id for case in shard_cases):
                continue
            for row in read_csv(layout.preprocessed_table(shard)):
                if row["case_id"] in wanted:
                    rows[row["case_id"]] = row
    return rows


def _image_digest(row: Mapping[str, str]) -> str:
    """Return the SHA-256 of the image among the files of ``row``."""
    digests = zip(row["files"].split(";"), row["sha256"].split(";"), strict=True)
    return next(digest for file, digest in digests if Path(file).name == IMAGE)


@dataclass(frozen=True)
class CasePredictor:
    """Predict preprocessed cases with an ensemble and write what its TTA views agree on."""

    config: Config
    plan: Plan
    weights: Mapping[str, Path]
    """Weights file of each ensemble member."""

    @cached_property
    def networks(self) -> dict[str, dict[str, nn.Module]]:
        """Networks of each member, loaded at the first use."""
        networks = {}
        for member, path in self.weights.items():
            network, _ = load_network(path, self.device)
            networks[member] = member_networks(member, network)
        return networks

    @cached_property
    def snapshots(self) -> dict[str, list[tuple[SegmentationNetwork, ...]]]:
        """Networks of each member at earlier training steps, oldest first; empty without ``snapshots``."""
        return {
            member: [network.parts for network in load_snapshots(path, self.device)]
            for member, path in self.weights.items()
        }

    @cached_property
    def device(self) -> torch.device:
        """Device that the networks run on."""
        return choose_device(self.config.device)

    def write(self, case_id: str, members: Sequence[str], folder: Path) -> dict[str, Any]:
        """Predict a case with ``members``, write the files into ``folder`` and return the row of the case.

        Raises:
            HstfError: if the case does not fit into memory; the message names the case.
        """
        image_path = Layout.of(self.config).preprocessed / case_id / IMAGE
        image = torch.from_numpy(read_array(image_path)).float()
        window = SlidingWindow.of(self.plan, self.config.teacher, self.device)
        networks: dict[str, nn.Module] = {}
        for member in members:
            networks |= self.networks[member]
        try:
            views = predict_views(
                networks,
                image,
                window,
                self.config.teacher.scales,
                self.config.teacher.flip_axes,
                self.config.structures,
                prod(self.plan.spacing) / 1000,
            )
            # The k-th snapshots of all members form the ensemble as it was at that step.
            earlier = zip(*(self.snapshots[member] for member in members), strict=False)
            labels = (team_label(sum(parts, ()), image, window) for parts in earlier)
            views = views.with_snapshots(labels, self.config.structures)
        except HstfError as error:
            raise HstfError(f"{case_id}: {error}") from error
        write_views(folder, views, self.config.preprocess.chunk)
        return {"members": ";".join(members)} | views.row()


def member_networks(member: str, network: SegmentationNetwork) -> dict[str, nn.Module]:
    """Return the networks that predict for an ensemble member, by name.

    A pair counts as two networks, so that their disagreement adds to the uncertainty like that of two members.
    """
    if len(network.parts) == 1:
        return {member: network}
    first, second = network.parts
    return {f"{member}.first": first, f"{member}.second": second}
