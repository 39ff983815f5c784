"""Expressions of a MONAI bundle for the anatomy rules.

The rules are applied once, and do not measure the contact between structures.

Example:
    >>> from hstf.method.plr.anatomy_rules import AnatomyRules
    >>> clean_expressions(AnatomyRules(classes={}, rules={}), 1.0)["cleaned"]
    '$lambda p: @certain(p, @most_likely(p))'
"""

from math import ceil

from hstf.method.bundle.expressions import PARTS, Json
from hstf.method.plr.anatomy_rules import AnatomyRules


def clean_expressions(rules: AnatomyRules, voxel_mm3: float) -> Json:
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
