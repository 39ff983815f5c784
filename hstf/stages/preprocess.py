"""``hstf preprocess``: the scans of a shard on the planned grid, normalised, in files that are read by patch.

Each case has a folder with ``image.b2nd`` (float16, ``(C, X, Y, Z)``) and ``geometry.json``, the way back to native space;
labelled cases have ``label.b2nd`` (uint8 class indices, 255 = ignore) and ``locations.npy`` besides.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split
from hstf.experiment.context import StageContext
from hstf.experiment.plan import Plan
from hstf.experiment.tables import CHECK, PREPROCESSED
from hstf.imaging.arrays import write_array
from hstf.imaging.class_locations import class_locations
from hstf.imaging.geometry import Geometry
from hstf.imaging.label_values import class_indices
from hstf.imaging.preparation import prepare_image
from hstf.imaging.volumes import read_image, read_label
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import atomic_path, sha256_file
from hstf.runtime.processes import worker_count
from hstf.runtime.shards import CaseWork, run_shard


def run(args: argparse.Namespace) -> int:
    """Preprocess a shard."""
    preprocess(StageContext.of_arguments(args, "preprocess"), args.shard)
    return 0


def preprocess(context: StageContext, shard: str) -> int:
    """Preprocess the labelled or unlabelled cases of ``shard``; returns how many were computed.

    Raises:
        HstfError: no such shard, a shard of test cases, no plan, a scan that cannot be used, or one that is not the one that
            was checked.
    """
    layout = context.layout
    config = context.config
    plan = Plan.load(layout.plan)
    cases = context.shard(shard)
    if any(case.split is Split.TEST for case in cases):
        raise HstfError(
            f"{shard}: test cases are read by the evaluate stage alone. Choose another shard."
        )
    digests = {path: sha256_file(path) for case in cases for path in _sources(case)}
    _refuse_unchecked(digests, layout.check)
    works = [
        _work(case, config, plan, layout.preprocessed / case.case_id, digests) for case in cases
    ]
    workers = worker_count(config.preprocess.workers)
    path = layout.preprocessed_table(shard)
    return run_shard(PREPROCESSED, path, context.parameters, works, f"preprocess {shard}", workers)


def _sources(case: Case) -> list[Path]:
    return [*case.images, *([case.training_label] if case.split is Split.LABELLED else [])]


def _refuse_unchecked(digests: Mapping[Path, str], table: Path) -> None:
    """Snakemake reruns the check by the time of files, and a copy may be older than what it replaces."""
    if not table.is_file():
        return
    checked = {row["file"]: row["sha256"] for row in CHECK.records(table)}
    faults = [
        f"{path}: {'was changed after it was checked' if str(path) in checked else 'was not there when scans were checked'}"
        for path, digest in digests.items()
        if checked.get(str(path)) != digest
    ]
    if faults:
        raise join_problems(
            f"{table}: does not speak of these files. Run the check stage again (--forcerun check).",
            faults,
        )


def _work(
    case: Case, config: Config, plan: Plan, folder: Path, digests: Mapping[Path, str]
) -> CaseWork:
    channels = (*config.modalities, "label")
    names = ["image.b2nd", "geometry.json"]
    if case.split is Split.LABELLED:
        names += ["label.b2nd", "locations.npy"]
    files = zip(channels, _sources(case), strict=False)  # only labelled cases have a label
    inputs = {name: digests[path] for name, path in files} | {"plan": plan.grid_sha256}
    run = partial(preprocess_case, case, config, plan, folder)
    return CaseWork(case.case_id, inputs, [folder / name for name in names], run)


def preprocess_case(case: Case, config: Config, plan: Plan, folder: Path) -> dict[str, Any]:
    """Write the files of ``case`` to ``folder``; returns its row of the shard's table.

    Raises:
        HstfError: its files cannot be read or do not fit together.
    """
    try:
        volumes = [read_image(path) for path in case.images]
        image, geometry = prepare_image(volumes, plan, config.preprocess, config.modalities)
        del volumes
        write_array(folder / "image.b2nd", image.astype(np.float16), config.preprocess.chunk)
        del image
        if case.split is Split.LABELLED:
            _write_label(case, config, geometry, folder)
    except HstfError as error:
        raise HstfError(f"{case.case_id}: {error}") from error
    geometry.save(folder / "geometry.json")
    return {
        "shape_native": "x".join(map(str, geometry.native_shape)),
        "shape_grid": "x".join(map(str, geometry.grid_shape)),
        "spacing": "x".join(f"{v:.6g}" for v in geometry.source_spacing),
        "orientation": geometry.orientation,
    }


def _write_label(case: Case, config: Config, geometry: Geometry, folder: Path) -> None:
    path = case.training_label
    native = read_label(path).data
    if native.shape != geometry.native_shape:
        raise HstfError(
            f"{path}: has shape {native.shape}, the image {geometry.native_shape}. Both must have the same voxels."
        )
    classes = len(config.class_names)
    label = geometry.label_to_grid(class_indices(native, config, path), classes)
    write_array(folder / "label.b2nd", label, config.preprocess.chunk)
    with atomic_path(folder / "locations.npy") as temporary:
        np.save(temporary, class_locations(label, classes, case.case_id))
