"""``hstf nnunet``: write the data that a student learns from as a raw data set of nnU-Net v2.

Labelled cases keep their labels. Unlabelled cases have the pseudo-labels of a round, corrected
labels included; voxels with a low weight have nnU-Net's ``ignore`` label. Rejected cases are left
out, and no withheld label is read.

Written to ``--output``, which is named ``Dataset<three digits>_<name>``:

- ``imagesTr``, ``labelsTr``: labelled and pseudo-labelled cases;
- ``imagesTs``: images of validation and test cases, without labels;
- ``dataset.json``;
- ``splits_final.json``: folds for ``nnUNet_preprocessed``. Patients are kept together, and nnU-Net
  validates on labelled cases only;
- ``cases.csv``: where each label comes from, and how much of it is ignored.
"""

import argparse
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hstf.config.experiment import IGNORE, Config
from hstf.config.load import config_in_place
from hstf.experiment.cases import Case, Split, names_of, read_cases
from hstf.experiment.folds import held_out_cases, patients_of, units_of_folds
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.experiment.keys import Keys
from hstf.experiment.layout import Layout
from hstf.experiment.product_tables import NNUNET_CASES
from hstf.experiment.round_tables import LABELS
from hstf.experiment.schedule import Schedule
from hstf.imaging.guards import MASK
from hstf.imaging.header_text import has_gzip_text, has_text
from hstf.imaging.label_values import IGNORED, class_indices
from hstf.imaging.volumes import (
    Volume,
    as_nifti1,
    blank_volume,
    is_readable_by_itk,
    read_image,
    read_label,
    write_like,
)
from hstf.runtime.documents import Document
from hstf.runtime.errors import HstfError, few
from hstf.runtime.files import complete_folder, make_folder, recover_folder, write_json
from hstf.runtime.progress import track
from hstf.runtime.shards import read_shard

FOLDER_NAME = re.compile(r"Dataset\d{3}_[\w-]+")
ENDING = ".nii.gz"
MAX_FOLDS = 5
"""Number of folds of nnU-Net. With fewer labelled patients there are fewer folds."""
CHANNEL_NAMES = {"ct": "CT", "mr": "MRI", "pet": "PET", "us": "US"}
"""nnU-Net normalises ``CT`` by the intensities of all scans, and other channels scan by scan."""


class NnunetDataset(Document):
    """``dataset.json`` of nnU-Net, version 2."""

    stage = "nnunet"

    name: str
    description: str
    channel_names: dict[str, str]
    labels: dict[str, int | list[int]]
    regions_class_order: list[int] | None = None
    numTraining: int
    file_ending: str = ENDING

    def to_json(self) -> dict[str, Any]:
        """Convert the document to plain JSON values, without the order of regions if none exist."""
        return self.model_dump(mode="json", exclude_none=True)


def run(args: argparse.Namespace) -> int:
    """Write the data set."""
    _check_options(args)
    source = Source.opened(args.results, args.round, args.minimum_weight, args.anyway)
    rows = source.write(args.output)
    learned = sum(row["source"] != "labelled" for row in rows)
    print(f"{args.output}: {len(rows) - learned} labelled and {learned} pseudo-labelled cases.")
    if source.config.regions and source.regions is None:
        print(
            "Regions cannot be written one over the other in this experiment, so nnU-Net gets the"
            " classes."
        )
    print("\n".join(next_steps(args.output, (args.output / "splits_final.json").is_file())))
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that nnU-Net would not understand, and a folder that exists.

    Raises:
        HstfError: if an option is wrong.
    """
    if not FOLDER_NAME.fullmatch(args.output.name):
        raise HstfError(
            f"--output {args.output}: nnU-Net expects a folder named Dataset<three digits>_<name>,"
            " for example Dataset501_heart."
        )
    if args.output.exists():
        raise HstfError(f"--output {args.output}: exists. Give a new folder, or delete this one.")
    if not 0 <= args.minimum_weight <= 1:
        raise HstfError(f"--minimum-weight is {args.minimum_weight:g}, expected 0 to 1.")


def next_steps(folder: Path, has_splits: bool) -> list[str]:
    """Return the commands that train nnU-Net on the data set."""
    number = folder.name[len("Dataset") :][:3]
    steps = [
        f"export nnUNet_raw={shlex.quote(str(folder.parent.resolve()))}",
        f"nnUNetv2_plan_and_preprocess -d {number} -c 3d_fullres --verify_dataset_integrity",
    ]
    if has_splits:
        splits = shlex.quote(str(folder.resolve() / "splits_final.json"))
        steps.append(f'cp {splits} "$nnUNet_preprocessed/{folder.name}/"')
    steps.append(f"nnUNetv2_train {number} 3d_fullres 0")
    return steps


@dataclass(frozen=True)
class Source:
    """The experiment and the round that are written."""

    config: Config
    layout: Layout
    number: int
    """The round; 0: the labelled cases only."""
    minimum_weight: float
    """Voxels of pseudo-labels with a lower weight, 0 to 1, are ignored."""

    @classmethod
    def opened(
        cls,
        results: Path,
        number: int | None,
        minimum_weight: float,
        anyway: bool = False,
    ) -> "Source":
        """Open the results of an experiment.

        Args:
            results: folder of the experiment.
            number: the round; None for the last one whose labels are complete.
            minimum_weight: minimum weight of a voxel, 0 to 1.
            anyway: whether labels are accepted that the next run would make again.

        Raises:
            HstfError: if there are no results, if the round has no labels, or if they are not up to
                date.
        """
        config = config_in_place(results)
        layout = Layout.of(config)
        last = Schedule.of(config).last
        rounds = [0, *(r for r in range(1, last + 1) if layout.labels_table(r).is_file())]
        if number is not None and number not in rounds:
            known = ", ".join(map(str, rounds))
            raise HstfError(
                f"--round {number}: {layout.root} has no labels of this round (labels.csv)."
                f" Rounds that can be written: {known}; 0 means the labelled cases only."
            )
        chosen = rounds[-1] if number is None else number
        if chosen > 0 and not anyway:
            _refuse_outdated(config, chosen)
        return cls(config, layout, chosen, minimum_weight)

    @property
    def ignore_index(self) -> int:
        """Value of ignored voxels: nnU-Net requires the highest one."""
        return len(self.config.class_names)

    @property
    def regions(self) -> list[int] | None:
        """Class index that nnU-Net writes for each region, or None without such an order."""
        return region_order(self.config.structures) if self.config.regions else None

    def write(self, target: Path) -> list[dict[str, Any]]:
        """Write the data set. The folder appears complete or not at all.

        Returns:
            The rows of ``cases.csv``.

        Raises:
            HstfError: if a file cannot be read or written.
        """
        cases = read_cases(self.config)
        labelled = cases.of(Split.LABELLED)
        sources = self._sources(cases.of(Split.UNLABELLED))
        pseudo_labelled = [case for case in cases.of(Split.UNLABELLED) if case.case_id in sources]
        held_back = [*cases.of(Split.VALIDATION), *cases.of(Split.TEST)]
        recover_folder(target)
        with complete_folder(target) as folder:
            rows = []
            for case in track([*labelled, *pseudo_labelled], "nnunet"):
                rows.append(self._write_case(folder, case, sources))
            for case in track(held_back, "nnunet: images of validation and test cases"):
                _write_images(folder / "imagesTs", case, self.config.modalities)
            self.description(target.name, len(rows)).save(folder / "dataset.json")
            splits = self._splits(labelled, pseudo_labelled)
            if splits:
                write_json(folder / "splits_final.json", splits)
            NNUNET_CASES.write(folder / "cases.csv", rows)
        return rows

    def _sources(self, unlabelled: Sequence[Case]) -> dict[str, str]:
        """Return the source of the label of each unlabelled case that is learned from."""
        if self.number == 0:
            return {}
        table = self.layout.labels_table(self.number)
        rows = read_shard(LABELS, table, names_of(unlabelled))
        return {name: row["source"] for name, row in rows.items() if row["source"] != "rejected"}

    def _write_case(self, folder: Path, case: Case, sources: Mapping[str, str]) -> dict[str, Any]:
        """Write images and label of a case, and return its row of ``cases.csv``.

        The label gets the geometry of the image: nnU-Net refuses a rounding of the voxel sizes that
        ``check`` accepts.
        """
        _write_images(folder / "imagesTr", case, self.config.modalities)
        source = sources.get(case.case_id, "labelled")
        label = self._label(case) if source == "labelled" else self._pseudo_label(case)
        ignored = label.data == self.ignore_index
        target = folder / "labelsTr" / f"{case.case_id}{ENDING}"
        write_like(target, label.data, as_nifti1(blank_volume(case.images[0])))
        return {
            "case_id": case.case_id,
            "group": case.group,
            "source": source,
            "ignored": float(ignored.mean()),
        }

    def _label(self, case: Case) -> Volume:
        """Return the label of a labelled case."""
        path = case.training_label
        return self._indices(read_label(path), path)

    def _pseudo_label(self, case: Case) -> Volume:
        """Return the label of an unlabelled case; voxels with a low weight are ignored."""
        folder = self.layout.labels(self.number)
        path = folder / f"{case.case_id}.nii.gz"
        volume = self._indices(read_label(path), path)
        weight = read_label(folder / f"{case.case_id}.weight.nii.gz").data
        volume.data[weight < 255 * self.minimum_weight] = self.ignore_index
        return volume

    def _indices(self, volume: Volume, path: Path) -> Volume:
        """Return a label with class indices instead of the values of the files."""
        indices = class_indices(volume.data, self.config, path)
        indices[indices == IGNORED] = self.ignore_index
        return Volume(indices, volume.affine, volume.header)

    def description(self, name: str, cases: int) -> NnunetDataset:
        """Return ``dataset.json``.

        Args:
            name: name of the folder.
            cases: number of cases with a label.
        """
        labels: dict[str, int | list[int]] = {}
        order = self.regions
        if order is None:
            labels |= {name: index for index, name in enumerate(self.config.class_names)}
        else:
            labels["background"] = 0
            for region, indices in by_size(self.config.structures).items():
                labels[region] = list(indices)
        labels[IGNORE] = self.ignore_index
        kinds = enumerate(self.config.modalities.items())
        return NnunetDataset(
            name=name,
            description=(
                f"Experiment {self.config.experiment} of hstf: labelled cases and the pseudo-labels"
                f" of round {self.number}. Voxels with a weight below {self.minimum_weight:g} are"
                " ignored."
            ),
            channel_names={
                str(number): CHANNEL_NAMES.get(kind, channel) for number, (channel, kind) in kinds
            },
            labels=labels,
            regions_class_order=order,
            numTraining=cases,
        )

    def _splits(
        self, labelled: Sequence[Case], pseudo_labelled: Sequence[Case]
    ) -> list[dict[str, list[str]]]:
        """Return the folds: a patient is on one side, pseudo-labelled cases are never validated."""
        units = set(units_of_folds(patients_of(labelled)).values())
        folds = min(MAX_FOLDS, len(units))
        if folds < 2:
            return []
        splits = []
        for number in range(folds):
            member = f"fold_{number}"
            held_out = held_out_cases(member, labelled, folds, self.config.seed)
            groups = {case.group for case in held_out}
            others = [case for case in labelled if case not in held_out]
            others += [case for case in pseudo_labelled if case.group not in groups]
            splits.append({"train": names_of(others), "val": names_of(held_out)})
        return splits


def _refuse_outdated(config: Config, number: int) -> None:
    """Refuse labels that the next run would make again, for instance with new decisions.

    Raises:
        HstfError: with what has changed.
    """
    keys = Keys(Jobs(config), sets_times=False)
    job = Job("labels_table", number)
    if not keys.is_recorded(job):
        return
    causes = keys.causes(job)
    if causes:
        raise HstfError(
            f"{Layout.of(config).root}: the labels of round {number} are not up to date:"
            f" {few(causes)}. Run snakemake first, or add --anyway to write them as they are."
        )


def by_size(structures: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return regions with the maximum number of classes first, so that inner ones come last."""
    ordered = sorted(structures.items(), key=lambda item: -len(item[1]))
    return dict(ordered)


def region_order(structures: Mapping[str, tuple[int, ...]]) -> list[int] | None:
    """Return the class index that nnU-Net writes for each region (``regions_class_order``).

    nnU-Net writes the regions one over the other. A region's index is that of the class which no
    region after it contains.

    Args:
        structures: class indices of each region.

    Returns:
        An index for each region of :func:`by_size`, or None if the classes cannot be found again
        from the regions in this way.

    Example:
        >>> region_order({"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)})
        [2, 1, 3]
        >>> region_order({"left": (1, 2), "right": (2, 3)}) is None
        True
    """
    regions = list(by_size(structures).values())
    order = []
    for position, indices in enumerate(regions):
        inner = {index for later in regions[position + 1 :] for index in later}
        own = [index for index in indices if index not in inner]
        if len(own) != 1:
            return None
        order += own
    return order


def _write_images(folder: Path, case: Case, modalities: Mapping[str, str]) -> None:
    """Write the images of a case.

    A file is copied if nnU-Net can read it and it has no text in the header of the scan or of gzip,
    which may identify the patient. Otherwise its voxels are written to a new file with the geometry
    of the first image.

    Raises:
        HstfError: if a file is damaged.
    """
    make_folder(folder)
    first = as_nifti1(blank_volume(case.images[0]))
    for channel, (kind, path) in enumerate(zip(modalities.values(), case.images, strict=True)):
        target = folder / f"{case.case_id}_{channel:04d}{ENDING}"
        volume = read_image(path, is_mask=kind == MASK)
        has_any_text = has_text(volume.header) or has_gzip_text(path)
        if not has_any_text and _is_readable_by_nnunet(path, volume, first):
            # A copy: nothing that is done to the data set can change a scan of the experiment.
            shutil.copyfile(path, target)
        else:
            write_like(target, volume.data, first)


def _is_readable_by_nnunet(path: Path, volume: Volume, first: Volume) -> bool:
    """Return whether nnU-Net, which reads by ITK, can open a file as a channel of its case.

    Args:
        path: the file.
        volume: its content.
        first: the first image of the case. nnU-Net refuses channels with other voxel sizes.
    """
    is_3d = len(volume.header.get_data_shape()) == 3
    has_same_geometry = np.array_equal(volume.affine, first.affine)
    is_opened = path.name.endswith(ENDING) and is_readable_by_itk(volume)
    return is_opened and is_3d and has_same_geometry
