"""``configs/inference.json`` of a MONAI bundle: what ``hstf predict`` does, by MONAI only.

The file names transforms of MONAI. Where MONAI has no transform that computes the same, it has an
expression in Python, which MONAI evaluates: the empty background, the normalisation, the grid whose
centre is that of the scan, and the anatomy rules. Each expression has a name, and others use it as
``@name``.

The segmentation differs from that of ``hstf predict`` at single voxels of surfaces, because splines
have other values outside of the outermost voxels. Anatomy rules are applied once, and do not
measure the contact between structures. Networks compute in float32. If the sform has other voxel
sizes than the qform (pixdim), MONAI replaces the sform by the qform.
"""

import json
import re
from collections.abc import Sequence
from math import ceil, prod
from typing import Any

from hstf.experiment.plan import Normalisation
from hstf.imaging.affines import THICK
from hstf.imaging.intensity import (
    BODY_THRESHOLD,
    FEW_VALUES,
    LOWER_PERCENTILE,
    MAXIMUM_SAMPLE,
    MINIMUM_EMPTY_CORNERS,
    MINIMUM_STD,
    UPPER_PERCENTILE,
    has_spread,
)
from hstf.imaging.spacing import ANISOTROPY, MAXIMUM_DRIFT
from hstf.method.bundle.programs import PROGRAM_FILES
from hstf.method.exported_model import ExportedModel
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.sliding_window import SIGMA

Json = dict[str, Any]
REFERENCE = re.compile(r"@(\w+)")
"""The name of another entry in an expression."""
MASK = "mask"
"""The normalisation of channels that are not interpolated."""
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
PARTS = "$lambda inside: ndimage.label(inside, numpy.ones((3, 3, 3)))[0]"
"""The expression for the connected components of a mask ``(X, Y, Z)``."""
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
    """Return the content of ``configs/inference.json``.

    Example:
        >>> from hstf.method.bundle.inference import image_expressions
        >>> sorted(image_expressions())[:3]
        ['corners', 'empty', 'is_outside']
    """
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
    config |= _normalisation(model.plan.normalisation)
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


def image_expressions() -> Json:
    """Return the expressions that find the empty background of a channel ``(X, Y, Z)``."""
    return {
        "corners": "$lambda x: x[[0, -1]][:, [0, -1]][:, :, [0, -1]].flatten()",
        "empty": "$lambda x: @corners(x).mode().values.item()",
        "is_padded": (
            f"$lambda x: (@corners(x) == @empty(x)).sum() >= {MINIMUM_EMPTY_CORNERS}"
            " and @empty(x) in (0, x.min().item()) and bool((x != @empty(x)).any())"
        ),
        "nonempty": "$lambda x: x != @empty(x) if @is_padded(x) else torch.ones_like(x) > 0",
        "regions": "$lambda empty: torch.as_tensor(ndimage.label(empty.numpy())[0])",
        "is_outside": "$lambda r: torch.isin(r, (lambda c: c[c > 0])(@corners(r).unique()))",
        "nonempty_fan": "$lambda x: ~@is_outside(@regions(~@nonempty(x)))",
        "sampled": (
            "$lambda x, inside: (lambda k: x[::k, ::k, ::k][inside[::k, ::k, ::k]].numpy())"
            f"(int(numpy.ceil((x.numel() / {MAXIMUM_SAMPLE}) ** (1 / 3))))"
        ),
    }


def _normalisation(channels: Sequence[Normalisation]) -> Json:
    """Return the expressions that normalise an image ``(C, X, Y, Z)``."""
    low, high = LOWER_PERCENTILE, UPPER_PERCENTILE
    every = range(len(channels))
    measured = [index for index in every if channels[index].scheme != MASK]
    masks = [f"@{_mask_of(channels[index])}(x[{index}])" for index in measured or every]
    # A mask is normalised on the grid: 0 must still mean that there is nothing.
    values = [f"@normalise_{i}(x[{i}])" if i in measured else f"x[{i}]" for i in every]
    expressions = {
        # Without spread, the values before they were clipped are mapped to 0 to 1.
        "standardised": (
            "$lambda x, clipped, values:"
            " (clipped - values.mean(dtype=float)) / values.std(dtype=float)"
            f" if values.std(dtype=float) > {MINIMUM_STD} * abs(values.mean(dtype=float))"
            " else (x - x.min()) / max(x.max() - x.min(), 1e-30)"
        ),
        "clipped": (
            "$lambda x, v, low, high: @standardised(x, x.clip(low, high), v.clip(low, high))"
        ),
        "zscore": f"$lambda x, v: @clipped(x, v, *numpy.percentile(v, ({low}, {high})).tolist())",
        "body": f"$lambda v: v[v > {BODY_THRESHOLD} * (v[v > 0].mean() if (v > 0).any() else 0)]",
        "uptake_scale": (
            "$lambda v: (lambda b: float(numpy.median(b)) if b.size else 1.0)(@body(v))"
        ),
        "uptake_values": (
            "$lambda v: (lambda b: numpy.arcsinh((b if b.size else v) / @uptake_scale(v)))"
            "(@body(v))"
        ),
        "uptake": (
            "$lambda x, v: (lambda u: @clipped((x / @uptake_scale(v)).arcsinh(), u,"
            f" float(numpy.percentile(u, {low})), None))(@uptake_values(v))"
        ),
        "inside": f"$lambda x: torch.stack([{', '.join(masks)}]).any(0, True)",
        "normalised": f"$lambda x: torch.stack([{', '.join(values)}])",
        "like": (
            "$lambda values, x, dtype: monai.utils.convert_to_dst_type(values, x, dtype=dtype)[0]"
        ),
        "scanned": "$lambda x: @like(@inside(x.as_tensor()), x, torch.uint8)",
        "normalise": "$lambda x: @like(@normalised(x.as_tensor()), x, torch.float32)",
    }
    for index, channel in enumerate(channels):
        expressions[f"normalise_{index}"] = _channel(channel)
    return expressions


def _mask_of(channel: Normalisation) -> str:
    return "nonempty_fan" if channel.scheme == "fan" else "nonempty"


def _channel(channel: Normalisation) -> str:
    """Return the expression that normalises a channel ``(X, Y, Z)``."""
    if channel.scheme not in ("ct", MASK):
        name = "uptake" if channel.scheme == "uptake" else "zscore"
        return f"$lambda x: @{name}(x, @sampled(x, @{_mask_of(channel)}(x)))"
    value = "x" if channel.scheme == MASK else f"x.clip({channel.lower}, {channel.upper})"
    divisor = f" / {channel.std}" if has_spread(channel.mean, channel.std) else ""
    return f"$lambda x: ({value} - {channel.mean}){divisor}"


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


def _mask_expressions(masks: Sequence[int]) -> Json:
    """Return the expressions that bring the channels ``masks`` to the planned grid.

    The nearest voxel is taken. A structure that would disappear gets the grid voxels nearest to it.
    """
    channels = [
        f"@normalise_{i}(@mask_on_grid(x[{i}].numpy(), @size(x, @targets(x)),"
        " @steps(x, @targets(x))))"
        for i in masks
    ]
    return {
        "parts": PARTS,
        "nearest": (
            "$lambda n, m, step: numpy.floor((numpy.arange(m) - (m - 1) / 2) * step + (n - 1) / 2"
            " + 0.5).clip(0, n - 1).astype(int)"
        ),
        "nearest_voxels": (
            "$lambda shape, size, steps: numpy.ix_(*map(@nearest, shape, size, steps))"
        ),
        "structures": (
            "$lambda x: (lambda values: (x == value for value in values if value != 0)"
            f" if len(values) <= {FEW_VALUES} else [x != 0])(numpy.unique(x))"
        ),
        "lost_parts": "$lambda parts, here: (parts > 0) & ~numpy.isin(parts, parts[here])",
        "lost": (
            "$lambda x, here: sum((@lost_parts(@parts(each), here) for each in @structures(x)),"
            " numpy.zeros(x.shape, bool))"
        ),
        "with_lost": (
            "$lambda x, grid, lost, there: (grid.__setitem__(tuple(axis.ravel()[index]"
            " for axis, index in zip(there, lost.nonzero())), x[lost]), grid)[1]"
        ),
        "mask_on_grid": (
            "$lambda x, size, steps: (lambda here, there: @with_lost(x, x[here], @lost(x, here),"
            " there) if any(m < n for n, m in zip(x.shape, size)) else x[here])"
            "(@nearest_voxels(x.shape, size, steps), @nearest_voxels(size, x.shape, 1 / steps))"
        ),
        "masks_on_grid": f"$lambda x: torch.as_tensor(numpy.stack([{', '.join(channels)}]))",
    }


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
    config = _mask_expressions(masks) if masks else {}
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
        config |= _clean_expressions(model.structure, prod(model.plan.spacing))
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


def _clean_expressions(rules: AnatomyRules, voxel_mm3: float) -> Json:
    """Return the expressions that apply the anatomy rules to probabilities ``(K, X, Y, Z)``."""
    expressions: Json = {
        "parts": PARTS,
        "sizes": "$lambda parts: numpy.bincount(parts.ravel())[1:]",
        "maximum": (
            "$lambda sizes, count, voxels, required:"
            " [i + 1 for rank, i in enumerate(numpy.argsort(-sizes, kind='stable')[:count])"
            " if sizes[i] >= voxels or (required and rank == 0)]"
        ),
        "surplus": (
            "$lambda parts, count, voxels, required: (parts > 0)"
            " & ~numpy.isin(parts, @maximum(@sizes(parts), count, voxels, required))"
        ),
        "most_likely": "$lambda p: p.argmax(0)",
        "without": (
            "$lambda p, classes: @most_likely(numpy.where("
            "numpy.isin(numpy.arange(len(p)), classes)[:, None, None, None], -1, p))"
        ),
        "kept": (
            "$lambda p, label, classes, *rule: numpy.where(@surplus(@parts("
            "numpy.isin(label, classes)), *rule), @without(p, classes), label)"
        ),
        "filled": (
            "$lambda label, index: numpy.where((label == 0)"
            " & ndimage.binary_fill_holes(label == index), index, label)"
        ),
        "certain": (
            "$lambda p, label: numpy.where(label != @most_likely(p),"
            " label == numpy.arange(len(p))[:, None, None, None], p)"
        ),
    }
    steps = _clean_steps(rules, voxel_mm3)
    label = "@most_likely(p)"
    for number, step in enumerate(steps):
        expressions[f"clean_{number}"] = f"$lambda p: {step.format(label=label)}"
        label = f"@clean_{number}(p)"
    expressions["cleaned"] = f"$lambda p: @certain(p, {label})"
    expressions["clean"] = (
        "$lambda p: @like(@cleaned(p.as_tensor().cpu().numpy()), p, torch.float32)"
    )
    return expressions


def _clean_steps(rules: AnatomyRules, voxel_mm3: float) -> list[str]:
    """Return an expression with a place for ``{label}`` for each rule."""
    steps = []
    filled: dict[int, None] = {}
    for name, rule in rules.rules.items():
        if not rule.maximum_components:
            continue
        classes = list(rules.classes[name])
        voxels = ceil(rule.minimum_mm3 / voxel_mm3)
        required = not rule.may_be_absent
        values = f"{classes}, {rule.maximum_components}, {voxels}, {required}"
        steps.append(f"@kept(p, {{label}}, {values})")
        if not rule.has_holes:
            filled |= dict.fromkeys(classes)
    steps += [f"@filled({{label}}, {index})" for index in filled]
    return steps
