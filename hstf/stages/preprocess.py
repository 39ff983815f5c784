"""``hstf preprocess``: resample the scans of a shard to the planned grid and normalise them.

Each case gets a folder with ``image.b2nd`` (float16, ``(C, X, Y, Z)``) and ``geometry.json``, which
maps the grid back to native space. A labelled case also gets ``label.b2nd`` (uint8 class indices,
255 for ignored voxels) and ``locations.npy``. Arrays are stored in chunks, so that training reads
single patches.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split
from hstf.experiment.checked_scans import refuse_unchecked
from hstf.experiment.context import StageContext
from hstf.experiment.plan import Plan
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.arrays import write_array
from hstf.imaging.class_locations import class_locations
from hstf.imaging.geometry import Geometry
from hstf.imaging.label_values import class_indices
from hstf.imaging.preparation import constant_channels, prepare_image, read_images
from hstf.imaging.volumes import read_label
from hstf.runtime.errors import HstfError
from hstf.runtime.files import atomic_path, sha256_file
from hstf.runtime.processes import worker_count
from hstf.runtime.shards import CaseWork, run_shard


def run(args: argparse.Namespace) -> int:
    """Preprocess a shard."""
    preprocess(StageContext.of_arguments(args, "preprocess"), args.shard)
    return 0


def preprocess(context: StageContext, shard: str) -> int:
    """Preprocess the labelled or unlabelled cases of a shard.

    Returns:
        The number of cases that were computed; the others were up to date.

    Raises:
        HstfError: if there is no such shard, if it has test cases, if there is no plan, or if a
            scan is invalid or has changed after it was checked.
    """
    layout = context.layout
    config = context.config
    plan = Plan.load(layout.plan)
    cases = context.shard(shard)
    if any(not case.split.is_training for case in cases):
        raise HstfError(
            f"{shard}: test cases are read only by the evaluate stage. Choose another shard."
        )
    digests = {}
    for case in cases:
        for path in _sources(case):
            digests[path] = sha256_file(path)
    refuse_unchecked(layout, digests)
    works = []
    for case in cases:
        works.append(_work(case, config, plan, layout.preprocessed / case.case_id, digests))
    workers = worker_count(config.preprocess.workers)
    path = layout.preprocessed_table(shard)
    computed = run_shard(
        PREPROCESSED, path, context.parameters, works, f"preprocess {shard}", workers
    )
    for row in PREPROCESSED.records(path):
        if row.get("warnings"):
            print(f"preprocess: warning: {row['case_id']}: {row['warnings']}", flush=True)
    return computed


def _sources(case: Case) -> list[Path]:
    """Return the images of a case and, if it is labelled, its label."""
    paths = list(case.images)
    if case.split is Split.LABELLED:
        paths.append(case.training_label)
    return paths


def _work(
    case: Case, config: Config, plan: Plan, folder: Path, digests: Mapping[Path, str]
) -> CaseWork:
    """Return the work on a case: its inputs, its outputs and the function that computes it."""
    names = ["image.b2nd", "geometry.json"]
    if case.split is Split.LABELLED:
        names += ["label.b2nd", "locations.npy"]
    inputs = {}
    # Only labelled cases have a file for the last name.
    for name, path in zip((*config.modalities, "label"), _sources(case), strict=False):
        inputs[name] = digests[path]
    inputs["plan"] = plan.grid_sha256
    outputs = [folder / name for name in names]
    return CaseWork(
        case.case_id, inputs, outputs, partial(preprocess_case, case, config, plan, folder)
    )


def preprocess_case(case: Case, config: Config, plan: Plan, folder: Path) -> dict[str, Any]:
    """Write the files of a case.

    Args:
        case: a labelled or unlabelled case.
        config: the sections ``preprocess``, ``modalities`` and ``labels``.
        plan: the planned grid and normalisation.
        folder: folder of the files.

    Returns:
        The row of the case in the table of the shard.

    Raises:
        HstfError: if files of the case cannot be read or have different grids.
    """
    try:
        volumes = read_images(case.images, config.modalities)
        image, geometry = prepare_image(volumes, plan, config.preprocess, config.modalities)
        # A large scan fits in memory only without the copies that are no longer used.
        del volumes
        stored = image.astype(np.float16)
        del image
        warnings = constant_channels(stored, config.modalities)
        write_array(folder / "image.b2nd", stored, config.preprocess.chunk)
        del stored
        if case.split is Split.LABELLED:
            _write_label(case, config, geometry, folder)
    except HstfError as error:
        raise HstfError(f"{case.case_id}: {error}") from error
    geometry.save(folder / "geometry.json")
    row = {
        "shape_native": "x".join(map(str, geometry.native_shape)),
        "shape_grid": "x".join(map(str, geometry.grid_shape)),
        "spacing": "x".join(f"{mm:.6g}" for mm in geometry.source_spacing),
        "orientation": geometry.orientation,
    }
    if warnings:
        row["warnings"] = "; ".join(warnings)
    return row


def _write_label(case: Case, config: Config, geometry: Geometry, folder: Path) -> None:
    """Write the label on the grid, and the voxels at which patches of each class are centred."""
    path = case.training_label
    native = read_label(path).data
    if native.shape != geometry.native_shape:
        raise HstfError(
            f"{path}: has shape {native.shape}, the image {geometry.native_shape}."
            " Both must have the same voxels."
        )
    classes = len(config.class_names)
    label = geometry.label_to_grid(class_indices(native, config, path), classes)
    write_array(folder / "label.b2nd", label, config.preprocess.chunk)
    locations = class_locations(label, classes, case.case_id)
    with atomic_path(folder / "locations.npy") as temporary:
        np.save(temporary, locations)
