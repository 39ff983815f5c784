"""Predict cases with an ensemble of networks: the teacher of the self-training rounds.

Each ensemble member predicts a scan at several scales and mirrored along several axes (test-time
augmentation). The mean of all these views is the soft pseudo-label, and their differences measure
the uncertainty (:mod:`hstf.method.uncertainty`). Which members predict a case depends on what they
have learned from: after cross-fitting only members that have not seen the case
(:mod:`hstf.method.cross_fitting`), and in round 0 only the networks of the fold that it is in.

The cases of a shard are predicted one after the other. A case is skipped if its image, the weights
and the configuration are unchanged.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hstf.experiment.cases import Case, names_of
from hstf.experiment.checked_files import preprocessed_files
from hstf.experiment.context import StageContext
from hstf.experiment.plan import Plan
from hstf.experiment.round_tables import TEACHER
from hstf.imaging.arrays import read_array
from hstf.method.sliding_window import SlidingWindow
from hstf.method.tta import ensemble_label, predict_with_tta
from hstf.method.tta_summary import TtaSummary
from hstf.models.base import SegmentationNetwork
from hstf.models.layout import in_fast_layout
from hstf.models.registry import load_network, load_snapshots
from hstf.runtime.devices import choose_device
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.shards import CaseWork, run_shard
from hstf.runtime.stamps import sha256_once

IMAGE = "image.b2nd"
"""File name of a preprocessed image."""


def predict_cases(
    context: StageContext,
    cases: Sequence[Case],
    weights: Mapping[str, Path],
    teachers: Mapping[str, Sequence[str]],
    table: Path,
) -> int:
    """Predict ``cases`` and write the results into one folder for each case, next to ``table``.

    Cases that are up to date are skipped. Networks are loaded only when a case needs them.

    Args:
        context: the stage ``teacher`` or ``out_of_fold``.
        cases: the cases to predict; they must be preprocessed.
        weights: weights file of each ensemble member.
        teachers: names of the members that predict each case, by ``case_id``.
        table: CSV table of the shard.

    Returns:
        Number of cases that were computed.

    Raises:
        HstfError: if weights or preprocessed files are missing or have changed.
    """
    plan = Plan.load(context.layout.plan)
    weights_digests = {name: _weights_digest(path) for name, path in weights.items()}
    image_digests = preprocessed_image_digests(context, cases)
    predictor = CasePredictor(context, plan, weights)
    works = []
    for case in cases:
        names = teachers[case.case_id]
        folder = table.parent / case.case_id
        inputs = {f"weights of {name}": weights_digests[name] for name in names}
        inputs["patch"] = str(tuple(plan.patch_size))
        inputs["image"] = image_digests[case.case_id]
        run = partial(
            predictor.write,
            case.case_id,
            names,
            folder,
        )
        works.append(
            CaseWork(
                case.case_id,
                inputs,
                TtaSummary.files(folder),
                run,
            )
        )
    title = f"{table.parent.name} {context.round} {table.stem}"
    return run_shard(
        TEACHER,
        table,
        context.parameters,
        works,
        title,
    )


def predict_out_of_fold(
    context: StageContext,
    fold: str,
    cases: Sequence[Case],
    weights: Mapping[str, Path],
) -> None:
    """Predict the labelled cases of a fold with the networks that have not learned from them.

    The results are stored in ``round_0/out_of_fold``. The stage ``calibrate`` compares them with
    the labels.

    Args:
        context: the stage ``out_of_fold``.
        fold: name of the table.
        cases: the cases of the fold.
        weights: weights file of each of these networks.

    Raises:
        HstfError: if weights or preprocessed files are missing or have changed.
    """
    teachers = {case.case_id: list(weights) for case in cases}
    table = context.layout.out_of_fold_table(fold)
    predict_cases(
        context,
        cases,
        weights,
        teachers,
        table,
    )


def _weights_digest(weights: Path) -> str:
    if not weights.is_file():
        raise HstfError(
            f"{weights}: the weights are missing. Run the warmup or student stage first."
        )
    return sha256_once(weights)


def preprocessed_image_digests(context: StageContext, cases: Sequence[Case]) -> dict[str, str]:
    """Return the SHA-256 of the preprocessed image of each case, after checking the images.

    Raises:
        HstfError: if cases are not preprocessed, or images are missing or have changed. The message
            lists all of them.
    """
    files = preprocessed_files(context, cases)
    digests = {}
    problems = []
    for name in names_of(cases):
        image = files[name].at(context.layout.preprocessed / name / IMAGE)
        problem = image.problem()
        if problem:
            problems.append(problem)
        digests[name] = image.sha256
    if problems:
        raise join_problems("the preprocessed images are not as they were written.", problems)
    return digests


@dataclass(frozen=True)
class CasePredictor:
    """Predict preprocessed cases with an ensemble and write the summaries of their TTA views."""

    context: StageContext
    plan: Plan
    weights: Mapping[str, Path]
    """Weights file of each ensemble member."""

    @cached_property
    def device(self) -> torch.device:
        """Device of the networks."""
        return choose_device(self.context.device)

    @cached_property
    def networks(self) -> dict[str, dict[str, nn.Module]]:
        """Networks of each member, loaded when a case needs them."""
        networks = {}
        for member, path in self.weights.items():
            network, _ = load_network(path, self.device)
            network = in_fast_layout(network, self.device, self.context.config.teacher.amp)
            networks[member] = member_networks(member, network)
        return networks

    @cached_property
    def snapshots(self) -> dict[str, list[list[nn.Module]]]:
        """Networks of each member at earlier training steps, oldest step first."""
        snapshots: dict[str, list[list[nn.Module]]] = {}
        for member, path in self.weights.items():
            earlier = load_snapshots(path, self.device)
            snapshots[member] = [list(network.parts) for network in earlier]
        return snapshots

    def write(
        self,
        case_id: str,
        members: Sequence[str],
        folder: Path,
    ) -> dict[str, Any]:
        """Predict a case, write its files and return its row of the table.

        Args:
            case_id: the case; it must be preprocessed.
            members: ensemble members that predict the case.
            folder: folder of the files.

        Raises:
            HstfError: if GPU memory or temporary disk space is too small.
        """
        path = self.context.layout.preprocessed / case_id / IMAGE
        image = torch.from_numpy(read_array(path)).float()
        try:
            summary = self._predict(image, members)
        except HstfError as error:
            raise HstfError(f"{case_id}: {error}") from error
        summary.save(folder, self.context.config.preprocess.chunk)
        return {"members": list(members)} | summary.row()

    def _predict(self, image: Tensor, members: Sequence[str]) -> TtaSummary:
        """Predict ``image`` ``(C, X, Y, Z)`` and summarise the views."""
        section = self.context.config.teacher
        structures = self.context.config.structures
        window = SlidingWindow.of(self.plan, section, self.device)
        networks: dict[str, nn.Module] = {}
        for member in members:
            networks.update(self.networks[member])
        voxel_ml = prod(self.plan.spacing) / 1000
        summary = predict_with_tta(
            networks,
            image,
            window,
            section.scales,
            section.flip_axes,
            structures,
            voxel_ml,
        )
        earlier_labels = self._earlier_labels(image, members, window)
        return summary.with_snapshots(earlier_labels, structures)

    def _earlier_labels(
        self,
        image: Tensor,
        members: Sequence[str],
        window: SlidingWindow,
    ) -> Iterator[np.ndarray]:
        """Yield the prediction of the ensemble at each earlier training step, without TTA."""
        by_member = [self.snapshots[member] for member in members]
        for step in zip(*by_member, strict=False):
            networks = [network for parts in step for network in parts]
            yield ensemble_label(networks, image, window)


def member_networks(member: str, network: SegmentationNetwork) -> dict[str, nn.Module]:
    """Return the networks that predict for an ensemble member, by name.

    A pair counts as two networks: their disagreement adds to the uncertainty like that of two
    members.

    Example:
        >>> from types import SimpleNamespace
        >>> list(member_networks("seed_0", SimpleNamespace(parts=("cnn", "transformer"))))
        ['seed_0.first', 'seed_0.second']
    """
    if len(network.parts) == 1:
        return {member: network}
    first, second = network.parts
    return {f"{member}.first": first, f"{member}.second": second}
