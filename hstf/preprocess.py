"""``hstf preprocess``: the scans of a shard on the planned grid, normalised, in files that are read by patch.

Each case has a folder with ``image.b2nd`` (float16, ``(C, X, Y, Z)``) and ``geometry.json``, the way back to native space;
labelled cases have ``label.b2nd`` (uint8 class indices, 255 = ignore) and ``locations.npy`` besides.
"""

import argparse
import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from hstf.cases import Case, Split, read_cases
from hstf.check.faults import numbers
from hstf.cli import add_config, add_shard
from hstf.config import Config, load_config
from hstf.config.preprocess import PreprocessConfig
from hstf.errors import HstfError, join_faults
from hstf.files import atomic_path, read_csv, sha256_file, write_json
from hstf.geometry import IGNORED, Geometry, bounding_box, misplacement, to_ras
from hstf.intensity import field_of_view, normalise
from hstf.layout import Layout
from hstf.parallel import worker_count
from hstf.plan import Plan
from hstf.records import CaseWork, run_shard
from hstf.reuse import own_stage
from hstf.sparse import is_sparse
from hstf.stages import stage_parameters
from hstf.store import write_array
from hstf.volumes import Volume, read_image, read_label

COLUMNS = ("shape_native", "shape_grid", "spacing", "orientation")
LOCATIONS = 2000  # voxels kept for each class: training centres patches on them
LARGE_GRID, MOST_GROWTH = 1 << 24, 64  # a grid of more voxels may have so many for each voxel of the scan
AFFINE_MM = (
    1.0  # modalities of a case may differ by this much at the corners: the most that the check lets pass
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``hstf preprocess``."""
    add_config(parser)
    add_shard(parser)


def run(args: argparse.Namespace) -> int:
    """Preprocess a shard."""
    preprocess(own_stage(load_config(*args.config), "preprocess"), args.shard)
    return 0


def preprocess(config: Config, shard: str) -> int:
    """Preprocess the labelled or unlabelled cases of ``shard``; returns how many were computed.

    Raises:
        HstfError: no such shard, a shard of test cases, no plan, a scan that cannot be used, or one that is not the one that
            was checked.
    """
    layout, plan = Layout.of(config), Plan.load(Layout.of(config).plan)
    cases = read_cases(config).shard(shard, config.shard_size)
    if any(case.split is Split.TEST for case in cases):
        raise HstfError(f"{shard}: test cases are read by the evaluate stage alone. Choose another shard.")
    digests = {path: sha256_file(path) for case in cases for path in _sources(case)}
    _refuse_unchecked(digests, layout.check)
    works = [_work(case, config, plan, layout.preprocessed / case.case_id, digests) for case in cases]
    workers = worker_count(config.preprocess.workers)
    table, parameters = layout.preprocessed_table(shard), stage_parameters(config, "preprocess")
    return run_shard(table, parameters, works, COLUMNS, f"preprocess {shard}", workers)


def _sources(case: Case) -> list[Path]:
    return [*case.images, *([case.training_label] if case.split is Split.LABELLED else [])]


def _refuse_unchecked(digests: Mapping[Path, str], table: Path) -> None:
    """Snakemake reruns the check by the time of files, and a copy may be older than what it replaces."""
    if not table.is_file():
        return
    checked = {row["file"]: row["sha256"] for row in read_csv(table)}
    faults = [
        f"{path}: {'was changed after it was checked' if str(path) in checked else 'was not there when scans were checked'}"
        for path, digest in digests.items()
        if checked.get(str(path)) != digest
    ]
    if faults:
        raise join_faults(
            f"{table}: does not speak of these files. Run the check stage again (--forcerun check).", faults
        )


def _work(case: Case, config: Config, plan: Plan, folder: Path, digests: Mapping[Path, str]) -> CaseWork:
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
    write_json(folder / "geometry.json", geometry.to_json())
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


def prepare_image(
    volumes: Sequence[Volume], plan: Plan, config: PreprocessConfig, modalities: Collection[str]
) -> tuple[np.ndarray, Geometry]:
    """A scan's channels on the planned grid, normalised: the one way to the network, in training and prediction.

    Args:
        volumes: one per modality, in channel order, on the same voxels.
        modalities: their names, for messages.

    Returns:
        Float32 ``(C, X, Y, Z)``, and the geometry that leads back.

    Raises:
        HstfError: channels that are missing, lie on different voxels, or hold NaN or infinite values.
    """
    _refuse_misfits(volumes, plan, list(modalities))
    first = volumes[0]
    masks = [field_of_view(v.data, n.scheme) for v, n in zip(volumes, plan.normalisation, strict=True)]
    box = bounding_box(to_ras(np.logical_or.reduce(masks), first.affine)) if config.crop else None
    geometry = Geometry.of(first.data.shape, first.affine, plan.spacing, box)
    _refuse_growth(geometry)
    image = np.empty((len(volumes), *geometry.grid_shape), np.float32)
    for channel, volume, mask, normalisation in zip(image, volumes, masks, plan.normalisation, strict=True):
        cropped = np.array(geometry.cropped(volume.data), np.float32, order="C")
        normalise(cropped, geometry.cropped(mask), normalisation)
        channel[...] = geometry.crop_to_grid(cropped)
    return image, geometry


def _refuse_misfits(volumes: Sequence[Volume], plan: Plan, names: Sequence[str]) -> None:
    if not len(volumes) == len(names) == len(plan.normalisation):
        raise HstfError(
            f"{len(volumes)} images and {len(names)} modalities ({', '.join(names)}) for a plan of"
            f" {len(plan.normalisation)} channels. Give one image for each, in this order."
        )
    faults, first = [], volumes[0]
    for name, volume in zip(names, volumes, strict=True):
        if misplacement(volume.data.shape, volume.affine, first.data.shape, first.affine, AFFINE_MM):
            faults.append(f"{name}: its voxels are not those of {names[0]}; resample it to them")
        if not np.isfinite(volume.data).all():
            faults.append(f"{name}: holds NaN or infinite values; replace them, by 0 outside the body")
    if faults:
        raise join_faults("The images cannot be used.", faults)


def _refuse_growth(geometry: Geometry) -> None:
    """A few voxels that claim to be metres long must not fill the memory."""
    voxels, source = prod(geometry.grid_shape), prod(geometry.crop_shape)
    if voxels > max(LARGE_GRID, MOST_GROWTH * source):
        raise HstfError(
            f"voxels of {numbers(geometry.source_spacing)} mm would become {voxels} voxels of"
            f" {numbers(geometry.spacing)} mm, over {MOST_GROWTH} for each. See whether the header's voxel sizes are right."
        )


def class_indices(values: np.ndarray, config: Config, path: Path) -> np.ndarray:
    """A label file's values (uint8) as class indices, 255 where the voxel is to be ignored.

    Raises:
        HstfError: a value that the configuration does not name; ``path`` is told.
    """
    table = np.full(256, -1, np.int16)
    table[config.class_values] = np.arange(len(config.class_values))
    if config.ignore_value is not None:
        table[config.ignore_value] = IGNORED
    indices = table[values]
    if (indices < 0).any():
        unknown = np.unique(values[indices < 0]).tolist()
        raise HstfError(
            f"{path}: holds the values {unknown}, which 'labels:' does not name ({_named(config.labels)})."
        )
    return indices.astype(np.uint8)


def _named(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in labels.items())


def class_locations(label: np.ndarray, classes: int, case_id: str) -> np.ndarray:
    """Up to 2000 random voxels of each foreground class of ``label`` ``(X, Y, Z)``, drawn by ``case_id``.

    Of a sparse label also voxels of the background: patches that lie anywhere would hardly meet its scribbles.

    Returns:
        Int32 ``(M, 4)``: class, x, y, z.
    """
    generator = np.random.default_rng(list(hashlib.sha256(case_id.encode()).digest()))
    rows = []
    for index in (*range(1, classes), *([0] if is_sparse(label) else [])):
        found = np.flatnonzero(label == index)
        chosen = np.sort(generator.choice(found, min(LOCATIONS, found.size), replace=False))
        rows.append(np.stack([np.full(chosen.size, index), *np.unravel_index(chosen, label.shape)], axis=1))
    return np.concatenate(rows).astype(np.int32)
