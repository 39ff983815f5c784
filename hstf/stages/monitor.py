"""``hstf monitor``: what the model of a round finds in unlabelled cases. No label of them is read.

The model of each round, the warm-up included, predicts the same unlabelled cases without
test-time augmentation. ``round_<r>/monitor.json`` compares the volumes of all structures with those
of earlier rounds and of the labelled cases, and states whether the model has collapsed
(:mod:`hstf.scoring.monitoring`). The next round is not started after a collapse, and ``export``
falls back to an earlier round.
"""

import argparse
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import nn

from hstf.experiment.cases import Case, Split, evenly_spaced
from hstf.experiment.context import StageContext
from hstf.experiment.plan import Plan
from hstf.imaging.arrays import read_array
from hstf.imaging.probabilities import most_likely
from hstf.imaging.sparse_labels import is_sparse
from hstf.method.ensemble import IMAGE, member_networks, preprocessed_image_digests
from hstf.method.plr.out_of_fold import LABEL
from hstf.method.sliding_window import SlidingWindow
from hstf.method.tta_summary import PROBABILITIES
from hstf.models.layout import in_fast_layout
from hstf.models.registry import load_network
from hstf.runtime.devices import choose_device
from hstf.runtime.errors import HstfError
from hstf.runtime.progress import track
from hstf.scoring.confusion import confusion, table_dice
from hstf.scoring.monitoring import (
    LabelledStructure,
    RoundMonitor,
    collapse_findings,
    found_structures,
    labelled_structures,
    mean_by_structure,
    never_found,
    pairwise_dice,
    volumes_ml,
)


def run(args: argparse.Namespace) -> int:
    """Run the stage.

    Raises:
        HstfError: if there is no such round, or as :func:`monitor`.
    """
    context = StageContext.of_arguments(args, "monitor")
    context.schedule.check_exists(context.round)
    monitor(context)
    return 0


def monitor(context: StageContext) -> RoundMonitor:
    """Predict some unlabelled cases with the model of a round and write ``monitor.json``.

    Raises:
        HstfError: if there are no unlabelled cases, or if weights, preprocessed files or the file
            of an earlier round are missing or have changed.
    """
    layout = context.layout
    number = context.round
    section = context.config.monitor
    cases = evenly_spaced(context.cases(Split.UNLABELLED), section.cases)
    if not cases:
        raise HstfError(
            "monitor: there is no unlabelled case to predict. See 'monitor.cases' and the case"
            " sheet."
        )
    preprocessed_image_digests(context, cases)  # refuses changed images
    model = MonitoredModel(context)
    predicted = [model.examine(case) for case in track(cases, f"monitor {number}")]
    earlier = [RoundMonitor.load(layout.monitor(before)) for before in range(number)]
    labelled = earlier[0].labelled if earlier else _labelled(context)
    found = RoundMonitor(
        round=number,
        cases=len(cases),
        structures=found_structures([case.volumes for case in predicted]),
        labelled=labelled,
        member_dice=mean_by_structure([case.member_dice for case in predicted if case.member_dice]),
        teacher_dice=mean_by_structure(
            [case.teacher_dice for case in predicted if case.teacher_dice]
        ),
        collapse=[],
        warnings=[],
    )
    findings = collapse_findings(found, earlier, section)
    warnings = never_found(found, earlier)
    result = found.model_copy(update={"collapse": findings, "warnings": warnings})
    result.save(layout.monitor(number))
    for finding in findings:
        print(f"monitor: warning: round {number} has collapsed: {finding}", flush=True)
    for warning in warnings:
        print(f"monitor: warning: round {number}: {warning}", flush=True)
    return result


def _labelled(context: StageContext) -> dict[str, LabelledStructure]:
    """Measure the labels of the labelled cases on the planned grid."""
    voxel_ml = prod(Plan.load(context.layout.plan).spacing) / 1000
    volumes = []
    are_dense = []
    for case in context.cases(Split.LABELLED):
        folder = context.layout.preprocessed / case.case_id
        label = read_array(folder / LABEL)
        volumes.append(volumes_ml(label, context.config.structures, voxel_ml))
        are_dense.append(not is_sparse(label))
    return labelled_structures(volumes, are_dense)


@dataclass(frozen=True)
class Examined:
    """What the model finds in one case."""

    volumes: dict[str, float]
    """Volume (ml) of each structure."""
    member_dice: dict[str, float]
    teacher_dice: dict[str, float]


@dataclass(frozen=True)
class MonitoredModel:
    """The model of a round; its networks are loaded when a case needs them."""

    context: StageContext

    @cached_property
    def device(self) -> torch.device:
        """Device of the networks."""
        return choose_device(self.context.device)

    @cached_property
    def networks(self) -> dict[str, nn.Module]:
        """All networks of the ensemble."""
        networks: dict[str, nn.Module] = {}
        for member in self.context.schedule.members(self.context.round):
            path = self.context.layout.weights(self.context.round, member)
            if not path.is_file():
                stage = "student" if self.context.round else "warmup"
                raise HstfError(f"{path}: is missing. Run the {stage} stage first.")
            network, _ = load_network(path, self.device)
            network = in_fast_layout(network, self.device, self.context.config.predict.amp)
            networks |= member_networks(member, network)
        return networks

    @cached_property
    def plan(self) -> Plan:
        """The plan."""
        return Plan.load(self.context.layout.plan)

    @cached_property
    def window(self) -> SlidingWindow:
        """The sliding window."""
        return SlidingWindow.of(self.plan, self.context.config.predict, self.device)

    def examine(self, case: Case) -> Examined:
        """Predict a case and measure what is found."""
        structures = self.context.config.structures
        folder = self.context.layout.preprocessed / case.case_id
        image = torch.from_numpy(read_array(folder / IMAGE)).float()
        total: torch.Tensor | None = None
        members = []
        for network in self.networks.values():
            probabilities = self.window.probabilities(network, image)
            members.append(probabilities.argmax(0).numpy().astype(np.uint8))
            total = probabilities if total is None else total.add_(probabilities)
        assert total is not None
        label = total.argmax(0).numpy().astype(np.uint8)
        return Examined(
            volumes=volumes_ml(label, structures, prod(self.plan.spacing) / 1000),
            member_dice=pairwise_dice(members, structures),
            teacher_dice=self._teacher_dice(case, label),
        )

    def _teacher_dice(self, case: Case, label: np.ndarray) -> dict[str, float]:
        """Return the Dice with the teacher of the round; empty without one."""
        number = self.context.round
        if not self.context.schedule.has_pseudo_labels(number):
            return {}
        path = self.context.layout.teacher(number) / case.case_id / PROBABILITIES
        if not path.is_file():
            return {}
        probabilities = read_array(path)
        structures = self.context.config.structures
        table = confusion(label, most_likely(probabilities), len(probabilities))
        return dict(zip(structures, table_dice(table, structures).tolist(), strict=True))
