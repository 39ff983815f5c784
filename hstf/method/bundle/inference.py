"""``configs/inference.json`` of a MONAI bundle: what ``hstf predict`` does, by MONAI only.

The file names transforms of MONAI. Where MONAI has no transform that computes the same, it has an
expression in Python, which MONAI evaluates: the empty background, the normalisation, the grid whose
centre is that of the scan, and the anatomy rules. Each expression has a name, and others use it as
``@name``.

The segmentation differs from that of ``hstf predict`` at single voxels of surfaces, because splines
have other values outside of the outermost voxels. Anatomy rules are applied once, and do not
measure the contact between structures. Networks compute in float32. If the sform has other voxel
sizes than the qform (pixdim), MONAI replaces the sform by the qform.

Example:
    >>> REFERENCE.findall("$@files or [@missing]")
    ['files', 'missing']
"""

import json
import re
from collections.abc import Sequence
from math import prod
from typing import Any

from hstf.imaging.affines import THICK
from hstf.imaging.spacing import ANISOTROPY, MAXIMUM_DRIFT
from hstf.method.bundle.anatomy_expressions import clean_expressions
from hstf.method.bundle.channel_expressions import (
    MASK,
    image_expressions,
    mask_expressions,
    normalisation_expressions,
)
from hstf.method.bundle.expressions import Json
from hstf.method.bundle.programs import PROGRAM_FILES
from hstf.method.exported_model import ExportedModel
from hstf.method.sliding_window import SIGMA

REFERENCE = re.compile(r"@(\w+)")
"""The name of another entry in an expression."""
IMAGE = "image"
"""The scan, on the planned grid after preprocessing."""
PREDICTION = "pred"
MASKS = "masks"
"""The channels of the scan that are not interpolated."""
GRID = "grid"
"""An empty image on the next grid."""
SCANNED = "scanned"
"""Which voxels of the file were scanned. The scan is cropped to them, and the segmentation is
brought back to this crop."""
TWICE = (
    "', '.join(path.removesuffix('.gz') + ' and ' + path for path in twice) + ': two files of one"
    " name, which would have the same segmentation. Remove or rename one of them, and run again.'"
)
"""The expression for the message about scans that are in the folder twice."""
WITHOUT_CHANNELS = (
    "$lambda x: monai.data.MetaTensor(x.as_tensor(), affine=x.affine,"
    " meta={**x.meta, 'original_channel_dim': float('nan')})"
)
"""The expression for a segmentation of scans with several files. They are stacked as channels, and
MONAI 1.6 takes the first axis of the segmentation for them when it saves it."""
POSTFIX = "$'seg' if os.path.realpath(@output_dir) == os.path.realpath(@dataset_dir) else ''"
"""A segmentation has the name of its scan and would replace it in the same folder."""


def inference_config(model: ExportedModel) -> Json:
    """Return the content of ``configs/inference.json``."""
    config: Json = {
        "imports": [
            "$import glob",
            "$import os",
            "$import numpy",
            "$import torch",
            "$import monai",
            "$from scipy import ndimage",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/segmentations'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        **_datalist(list(model.modalities)),
        "network_def": (
            f"$torch.jit.load(@bundle_root + '/models/{PROGRAM_FILES['torchscript']}',"
            " map_location=@device)"
        ),
        "network": "$@network_def.to(@device).eval()",
    }
    config |= image_expressions()
    config |= normalisation_expressions(model.plan.normalisation)
    config |= _grid_expressions(model)
    config |= _preprocessing(model)
    config |= _inferer(model)
    config |= _postprocessing(model)
    config |= {
        "dataset": {
            "_target_": "Dataset",
            "data": f"$[{{'{IMAGE}': files}} for files in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "run": ["$@evaluator.run()"],
    }
    return _used(config, ("run", "bundle_root", "imports"))


def _used(config: Json, roots: Sequence[str]) -> Json:
    """Return the entries of a configuration that ``roots`` need, in order."""
    waiting = list(roots)
    used = set()
    while waiting:
        name = waiting.pop()
        if name not in used:
            used.add(name)
            waiting += REFERENCE.findall(json.dumps(config[name]))
    return {name: value for name, value in config.items() if name in used}


def _datalist(modalities: Sequence[str]) -> Json:
    """Return the expressions for the files of each scan, named as for ``hstf predict``.

    Long names of modalities come first, because one may be the end of another: ``t1`` and
    ``ce_t1``. The name of a missing file is in the list, so that MONAI names it. Without any scan
    it is a pattern of names, because MONAI ends an empty run without an error. ``a.nii`` beside
    ``a.nii.gz`` is refused: both have the same segmentation.
    """
    compressed = "set(path + '.gz' for path in @found) & set(@found)"
    expressions: Json = {
        "found": "$sorted(glob.glob(os.path.join(glob.escape(@dataset_dir), '*.nii*')))",
        "twice": f"$sorted({compressed})",
        "refuse": f"$lambda twice: (_ for _ in ()).throw(ValueError({TWICE}))",
        "files": "$@refuse(@twice) if @twice else @found",
    }
    if len(modalities) == 1:
        missing = "os.path.join(@dataset_dir, '*.nii.gz')"
        return {**expressions, "datalist": f"$@files or [{missing}]"}
    files = ", ".join(f"@file_of(case + '_{name}')" for name in modalities)
    missing = ", ".join(f"os.path.join(@dataset_dir, '*_{name}.nii.gz')" for name in modalities)
    return {
        **expressions,
        "twice": f"$sorted(path for path in {compressed} if @case(@stem(path)))",
        "stem": "$lambda path: path.removesuffix('.gz').removesuffix('.nii')",
        "by_stem": "$dict((@stem(path), path) for path in @files)",
        "file_of": "$lambda stem: @by_stem.get(stem, stem + '.nii.gz')",
        "endings": [f"_{name}" for name in sorted(modalities, key=len, reverse=True)],
        "case": (
            "$lambda stem: next((stem.removesuffix(ending) for ending in @endings"
            " if stem.endswith(ending)), '')"
        ),
        "cases": "$sorted(set(@case(stem) for stem in @by_stem) - {''})",
        "datalist": f"$[[{files}] for case in @cases] or [[{missing}]]",
    }


def _grid_expressions(model: ExportedModel) -> Json:
    """Return the expressions that compute the grids of a scan.

    A scan is first resampled along coarse axes only (``nearest_grid``), and then along all axes.
    """
    expressions: Json = {
        "spacing": list(model.plan.spacing),
        "voxel_sizes": "$lambda x: x.pixdim.tolist()",
        "target": (f"$lambda n, s, t: s if n * abs(s - t) <= {MAXIMUM_DRIFT} * min(s, t) else t"),
        "targets": (
            "$lambda x: [@target(*axis) for axis in zip(x.shape[1:], @voxel_sizes(x), @spacing)]"
        ),
        "coarse": (
            "$lambda mm: [i == mm.index(max(mm)) and"
            f" mm[i] > {ANISOTROPY} * min(mm) for i in range(3)]"
        ),
        "nearest_targets": (
            "$lambda x: [t if a or b else s for a, b, s, t in zip(@coarse(@voxel_sizes(x)),"
            " @coarse(@spacing), @voxel_sizes(x), @targets(x))]"
        ),
        "size": (
            "$lambda x, mm: [max(1, round(n * s / t))"
            " for n, s, t in zip(x.shape[1:], @voxel_sizes(x), mm)]"
        ),
        "steps": "$lambda x, mm: numpy.array(mm) / numpy.array(@voxel_sizes(x))",
        "centre": "$lambda size: (numpy.array(size) - 1) / 2",
        "first": "$lambda x, mm: @centre(x.shape[1:]) - @centre(@size(x, mm)) * @steps(x, mm)",
        "matrix": (
            "$lambda steps, first: numpy.vstack("
            "[numpy.column_stack([numpy.diag(steps), first]), [0, 0, 0, 1]])"
        ),
        "placed": "$lambda x, matrix: x.affine.matmul(torch.as_tensor(matrix, dtype=torch.double))",
        "empty_image": (
            "$lambda x, affine, size: monai.data.MetaTensor("
            "torch.empty((1, *size), dtype=torch.uint8), affine=affine,"
            " meta={name: value for name, value in x.meta.items() if name != 'affine'})"
        ),
        "grid_of": (
            "$lambda x, mm: @empty_image(x, "
            "@placed(x, @matrix(@steps(x, mm), @first(x, mm))), @size(x, mm))"
        ),
        "nearest_grid": "$lambda x: @grid_of(x, @nearest_targets(x))",
        "planned_grid": "$lambda x: @grid_of(x, @targets(x))",
    }
    if model.preprocess.axes == "slices":
        expressions |= _slice_axes()
    return expressions


def _slice_axes() -> Json:
    """Return the expressions for the axes of the slices, the last from slice to slice."""
    return {
        "through": (
            f"$lambda mm: mm.index(max(mm)) if max(mm) > {THICK} * float(numpy.median(mm)) else 2"
        ),
        "order": "$lambda last: [axis for axis in range(3) if axis != last] + [last]",
        "is_mirrored": "$lambda x, order: numpy.linalg.det(x.affine.numpy()[:3, order]) < 0",
        "columns": (
            "$lambda x, order, flip: numpy.column_stack([numpy.eye(4)[:, order[:2]],"
            " -numpy.eye(4)[:, order[2]] if flip else numpy.eye(4)[:, order[2]],"
            " numpy.eye(4)[:, 3] + flip * (x.shape[1 + order[2]] - 1) * numpy.eye(4)[:, order[2]]])"
        ),
        "slices_of": (
            "$lambda x, order: @empty_image(x, "
            "@placed(x, @columns(x, order, @is_mirrored(x, order))),"
            " [x.shape[1 + axis] for axis in order])"
        ),
        "slice_grid": "$lambda x: @slices_of(x, @order(@through(@voxel_sizes(x))))",
    }


def _transform(target: str, keys: str | Sequence[str], **arguments: Any) -> Json:
    return {"_target_": target, "keys": keys if isinstance(keys, str) else list(keys), **arguments}


def _lambda(key: str, expression: str, new_key: str | None = None) -> Json:
    """Return a transform that applies an expression, to a new key if there is one."""
    return _transform("Lambdad", key, func=expression, overwrite=new_key or True)


def _keep_masks(masks: Sequence[int]) -> list[Json]:
    """Return the transform that brings the channels ``masks`` to the planned grid."""
    return [_lambda(IMAGE, "@masks_on_grid", MASKS)] if masks else []


def _insert_masks(masks: Sequence[int], channels: int) -> list[Json]:
    """Return the transforms that replace the channels ``masks`` by those of :func:`_keep_masks`."""
    if not masks:
        return []
    order = list(range(channels))
    for number, index in enumerate(masks):
        order[index] = channels + number
    return [
        _transform("ConcatItemsd", [IMAGE, MASKS], name=IMAGE),
        _transform("DeleteItemsd", MASKS),
        _lambda(IMAGE, f"$lambda x: x[{order}]"),
    ]


def _preprocessing(model: ExportedModel) -> Json:
    """Return the transforms before the network. Those of ``to_native`` are undone afterwards."""
    both = [IMAGE, SCANNED]
    before = [
        # (X, Y, Z, 1) is a volume for hstf, too. MONAI cannot save a result with a fourth axis.
        _transform(
            "LoadImaged",
            IMAGE,
            reader="NibabelReader",
            squeeze_non_spatial_dims=True,
            ensure_channel_first=True,
        ),
        _lambda(IMAGE, "@scanned", SCANNED),
        _lambda(IMAGE, "@normalise"),
    ]
    native: list[Json] = []
    if model.preprocess.axes == "slices":
        before.append(_lambda(IMAGE, "@slice_grid", GRID))
        native.append(_transform("ResampleToMatchd", both, key_dst=GRID, mode="nearest"))
    else:
        native.append(_transform("Orientationd", both, axcodes="RAS", labels=None))
    if model.preprocess.crop:
        crop = {"select_fn": "$lambda x: x > 0", "start_coord_key": None, "end_coord_key": None}
        native.append(_transform("CropForegroundd", both, source_key=SCANNED, **crop))
    masks = [i for i, channel in enumerate(model.plan.normalisation) if channel.scheme == MASK]
    after = [
        *_keep_masks(masks),
        _lambda(IMAGE, "@nearest_grid", GRID),
        _transform("ResampleToMatchd", IMAGE, key_dst=GRID, mode="nearest"),
        _lambda(IMAGE, "@planned_grid", GRID),
        _transform("ResampleToMatchd", IMAGE, key_dst=GRID, mode=3, padding_mode="mirror"),
        *_insert_masks(masks, len(model.modalities)),
        _transform("DeleteItemsd", GRID),
    ]
    names = []
    config = mask_expressions(masks) if masks else {}
    for number, step in enumerate(native):
        names.append(f"@native_{number}")
        config[f"native_{number}"] = step
    config["to_native"] = {"_target_": "Compose", "transforms": names}
    config["preprocessing"] = {"_target_": "Compose", "transforms": [*before, *names, *after]}
    return config


def _inferer(model: ExportedModel) -> Json:
    """Return the sliding window of one network.

    With several members or TTA views, it is an expression: the logarithm of the mean probabilities.
    """
    window = {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(model.plan.patch_size),
        "sw_batch_size": model.predict.window_batch,
        "overlap": model.predict.overlap,
        "mode": "gaussian",
        "sigma_scale": SIGMA,
        "padding_mode": "constant",
    }
    axes = model.predict.flip_axes
    if not axes and len(model.members) == 1:
        return {"inferer": window}
    views = ["@window(x, network).softmax(1)"]
    views += [f"@window(x.flip({2 + a}), network).softmax(1).flip({2 + a})" for a in axes]
    networks = "[network]" if len(model.members) == 1 else "network.members.children()"
    return {
        "window": window,
        "views": f"$lambda x, network: ({' + '.join(views)}) / {len(views)}",
        "inferer": (
            f"$lambda inputs, network, *args, **kwargs: (sum(@views(inputs, each)"
            f" for each in {networks}) / {len(model.members)}).log()"
        ),
    }


def _postprocessing(model: ExportedModel) -> Json:
    """Return the transforms from the result of the network to the file."""
    config: Json = {}
    transforms = [_transform("Activationsd", PREDICTION, softmax=True)]
    if model.structure is not None:
        config |= clean_expressions(model.structure, prod(model.plan.spacing))
        transforms.append(_lambda(PREDICTION, "@clean"))
    values = list(model.labels.values())
    transforms += [
        _transform(
            "ResampleToMatchd",
            PREDICTION,
            key_dst=SCANNED,
            mode="bilinear",
            padding_mode="border",
            dtype="$torch.float32",
        ),
        _transform("AsDiscreted", PREDICTION, argmax=True),
        _transform(
            "Invertd",
            PREDICTION,
            transform="@to_native",
            orig_keys=SCANNED,
            nearest_interp=True,
            to_tensor=True,
        ),
    ]
    if values != list(range(len(values))):
        transforms.append(
            _transform(
                "MapLabelValued",
                PREDICTION,
                orig_labels=list(range(len(values))),
                target_labels=values,
            )
        )
    if len(model.modalities) > 1:
        transforms.append(_lambda(PREDICTION, WITHOUT_CHANNELS))
    transforms.append(
        _transform(
            "SaveImaged",
            PREDICTION,
            output_dir="@output_dir",
            output_postfix=POSTFIX,
            output_ext=".nii.gz",
            output_dtype="$numpy.uint8",
            resample=False,
            separate_folder=False,
        )
    )
    config["postprocessing"] = {"_target_": "Compose", "transforms": transforms}
    return config
