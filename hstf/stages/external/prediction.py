"""Predict a case with an external teacher. A failure costs only the prediction of this case."""

import secrets
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hstf.experiment.cases import Case, Split
from hstf.experiment.context import StageContext
from hstf.experiment.job_inputs import prediction_file
from hstf.experiment.label_maps import Values
from hstf.imaging.arrays import write_array
from hstf.imaging.geometry import GEOMETRY, Geometry
from hstf.imaging.guards import MASK
from hstf.imaging.volume_files import is_nifti, suffix_of
from hstf.imaging.volumes import (
    as_nifti1,
    blank_volume,
    is_readable_by_itk,
    read_image,
    write_like,
)
from hstf.method.tta_summary import TtaSummary
from hstf.runtime.errors import HstfError
from hstf.runtime.programs import run_program
from hstf.stages.external.outputs import read_labels, read_probabilities
from hstf.stages.external.programs import Program, images_folder

WORK = ".work"
"""Folder of temporary files beside the table of a shard."""


class NoPrediction(Exception):
    """Why there is no prediction of a case."""


@dataclass
class ExternalPrediction:
    """The work on one case."""

    context: StageContext
    case: Case
    program: Program
    values: Values
    folder: Path
    """Folder of the table."""
    outputs: list[Path] = field(default_factory=list)
    """The file of the prediction; empty once it is known that there is none."""

    def __post_init__(self) -> None:
        """Name the file of the prediction."""
        suffix = "b2nd" if self.program.teacher.probabilities else "nii.gz"
        self.outputs.append(self.folder / f"{self.case.case_id}.{suffix}")

    def write(self) -> dict[str, Any]:
        """Predict the case and return its row of the table."""
        target = self.outputs[0]
        work = (self.folder / WORK / self.case.case_id).absolute()
        shutil.rmtree(work, ignore_errors=True)  # of a killed process
        # A name of its own: a process that was not killed cannot write into it.
        scratch = work / secrets.token_hex(4)
        scratch.mkdir(parents=True)
        missing, found = "", []
        try:
            found = self._store(self._predicted_file(scratch), target)
        except (NoPrediction, HstfError) as error:
            missing = " ".join(str(error).split())
            print(f"{self.case.case_id}: {self.program.name}: no prediction: {missing}", flush=True)
            target.unlink(missing_ok=True)
            self.outputs.clear()
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return {
            "missing": missing,
            "values": found,
            "version": self.program.version,
            "program": self.program.path,
            "program_sha256": self.program.sha256,
        }

    def _predicted_file(self, scratch: Path) -> Path:
        """Return the file that the program has written, or that exists already."""
        teacher = self.program.teacher
        if teacher.files:
            path = prediction_file(teacher, self.case)
            if not path.is_file():
                raise NoPrediction(f"{path} does not exist")
            return path
        output = scratch / "output" / f"{self.case.case_id}.nii.gz"
        output.parent.mkdir()
        label = self._prompt(scratch) if teacher.prompt == "label" else None
        words = self.program.words(self._images(images_folder(output)), output, label)
        seconds = self.program.seconds
        done = run_program(words, scratch / "output.txt", seconds, self.program.environment)
        problem = done.problem(seconds)
        if problem:
            print(done.tail.strip(), flush=True)
            raise NoPrediction(problem)
        if output.is_file() and not teacher.probabilities:
            return output
        try:
            return written_volume(output.parent, teacher.probabilities)
        except NoPrediction:
            print(done.tail.strip(), flush=True)
            raise

    def _images(self, folder: Path) -> dict[str, Path]:
        """Put the image of each modality into a folder, as NIfTI-1, and return it."""
        folder.mkdir()
        modalities = self.context.config.modalities
        images = {}
        for (name, kind), path in zip(modalities.items(), self.case.images, strict=True):
            stem = self.case.case_id if len(modalities) == 1 else f"{self.case.case_id}_{name}"
            is_readable = is_nifti(path) and is_readable_by_itk(blank_volume(path))
            suffix = suffix_of(path) if is_readable else ".nii.gz"
            images[name] = folder / f"{stem}{suffix}"
            if is_readable:
                images[name].symlink_to(path.absolute())
            else:
                volume = read_image(path, is_mask=kind == MASK)
                write_like(images[name], volume.data, as_nifti1(volume))
        return images

    def _prompt(self, scratch: Path) -> Path:
        """Write the present segmentation of the ensemble, in the space of the image."""
        summary = TtaSummary.load(prompt_folder(self.context, self.case))
        classes = self._geometry.probabilities_to_native(summary.probabilities)
        values = np.array(self.context.config.class_values, np.uint8)
        path = scratch / f"{self.case.case_id}_label.nii.gz"
        write_like(path, values[classes], as_nifti1(blank_volume(self.case.images[0])))
        return path

    @property
    def _geometry(self) -> Geometry:
        return Geometry.load(self.context.layout.preprocessed / self.case.case_id / GEOMETRY)

    def _store(self, path: Path, target: Path) -> list[str]:
        """Check the prediction and write it; return the values that it has."""
        image = self.case.images[0]
        tolerance = self.context.config.check.affine_tolerance_mm
        if self.program.teacher.probabilities:
            array = read_probabilities(path, image, tolerance, self._geometry, self.values)
            write_array(target, array, self.context.config.preprocess.chunk)
            return []
        labels = read_labels(path, image, tolerance)
        write_like(target, labels.data, blank_volume(image))
        return [str(int(value)) for value in np.unique(labels.data)]


def written_volume(folder: Path, is_soft: bool) -> Path:
    """Return the volume that a program has written into a folder.

    Args:
        folder: the folder.
        is_soft: whether a file ``.npz`` with probabilities goes before a label map beside it.

    Raises:
        NoPrediction: if there is none, or more than one.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [path for path in files if suffix_of(path)]
    arrays = [path for path in files if path.suffix == ".npz"]
    if is_soft and arrays:
        found = arrays
    if len(found) != 1:
        listed = ", ".join(path.name for path in files[:5]) or "nothing"
        raise NoPrediction(f"the command wrote {listed}, expected one volume")
    return found[0]


def prompt_folder(context: StageContext, case: Case) -> Path:
    """Return the folder with the prediction of the ensemble that is handed to a teacher."""
    layout = context.layout
    if case.split is Split.LABELLED:
        return layout.out_of_fold / case.case_id
    return layout.teacher(context.round) / case.case_id


def summary_of(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how many cases were predicted, and the most frequent reason for those that were not.

    Args:
        rows: rows of the table by case.
    """
    reasons = Counter(row["missing"] for row in rows.values() if row["missing"])
    if not reasons:
        return f"{len(rows)} cases predicted"
    reason, _ = reasons.most_common(1)[0]
    missing = sum(reasons.values())
    return f"{len(rows) - missing} cases predicted, {missing} missing ({reason})"
