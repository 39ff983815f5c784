"""The files of a MONAI bundle in the folder of an exported model.

- ``configs/metadata.json``: description of the network;
- ``configs/inference.json``: preprocessing, network, sliding window and post-processing;
- ``models/model.ts``, ``model.pt`` and ``model.pt2``: the ensemble as programs;
- ``docs/README.md``: how to run the bundle;
- ``LICENSE``: whom to ask for a licence.

Without TorchScript there is a description only.
"""

from collections.abc import Sequence
from pathlib import Path

from hstf.config.export import Program
from hstf.method.bundle.inference import inference_config
from hstf.method.bundle.metadata import INTENDED_USE, OWNER, bundle_metadata
from hstf.method.bundle.programs import PROGRAM_FILES, write_programs
from hstf.method.exported_model import ExportedModel
from hstf.models.base import SegmentationNetwork
from hstf.runtime.files import make_folder, write_json, write_text

LICENSE = """No licence was given with this model.

All rights of its owner are reserved ({owner}). Ask the owner before you use it or give it to
others. The owner may replace this file. The licence of hstf does not extend to models.
"""
GUIDE = """# {experiment}: MONAI bundle

{description}

    pip install "monai[ignite,nibabel,fire]" scipy
    python -m monai.bundle run --config_file configs/inference.json \\
        --dataset_dir SCANS --output_dir SEGMENTATIONS

Run the command in this folder. SCANS has {scans}. hstf is not needed. With hstf, the same weights
are used by `hstf predict --model THIS_FOLDER`, which also checks the scans and predicts the Dice.
A scan of one slice, and a scan that is there twice, as `a.nii` and `a.nii.gz`, end the run with an
error. If the sform of a scan has other voxel sizes than the qform (pixdim), MONAI uses the qform,
and hstf the sform. Where a plane of the grid is exactly between two thick slices, MONAI may take
the other one than hstf.

| file | content |
|---|---|
| `configs/inference.json` | preprocessing, network, sliding window and post-processing |
| `models/model.ts` | TorchScript with the weights of {members} |
{others}| `configs/metadata.json` | description of the network |

The program maps windows (B, {channels}, {patch}) to logits (B, {classes}, {patch}). MONAI evaluates
the Python expressions in `configs/inference.json`, which start with `$`: only run bundles of people
whom you trust.

{use}
"""
OTHER_FILES: dict[Program, str] = {
    "checkpoint": "weights of this program, for `monai.bundle ckpt_export` and for training",
    "torch_export": "the same as a program of `torch.export`",
}


def write_bundle(
    folder: Path,
    model: ExportedModel,
    networks: Sequence[SegmentationNetwork],
    programs: Sequence[Program],
) -> None:
    """Write configuration and programs of a bundle.

    Args:
        folder: folder of the exported model.
        model: the exported model.
        networks: network of each ensemble member, on the CPU, in evaluation mode.
        programs: the programs to write.
    """
    bundle_metadata(model).save(folder / "configs" / "metadata.json")
    if "torchscript" in programs:
        write_json(folder / "configs" / "inference.json", inference_config(model))
    if programs:
        make_folder(folder / "models")
        write_programs(folder / "models", networks, model.plan.patch_size, programs)


def write_bundle_texts(folder: Path, model: ExportedModel) -> None:
    """Write the files for people, which they may change. A bundle that does not run has no guide.

    Example:
        >>> from hstf.method.bundle.folder import LICENSE
        >>> LICENSE.splitlines()[0]
        'No licence was given with this model.'
    """
    write_text(folder / "LICENSE", LICENSE.format(owner=OWNER))
    if not (folder / "models" / PROGRAM_FILES["torchscript"]).is_file():
        return
    text = GUIDE.format(
        experiment=model.experiment,
        description=bundle_metadata(model).description,
        scans=_scans_text(list(model.modalities)),
        members=_members_text(len(model.members)),
        channels=len(model.modalities),
        classes=len(model.labels),
        patch=", ".join(map(str, model.plan.patch_size)),
        others=_other_files(folder / "models"),
        use=INTENDED_USE,
    )
    write_text(folder / "docs" / "README.md", text)


def _other_files(folder: Path) -> str:
    """Return the lines of the table for the other programs."""
    lines = []
    for program, text in OTHER_FILES.items():
        name = PROGRAM_FILES[program]
        if (folder / name).is_file():
            lines.append(f"| `models/{name}` | {text} |\n")
    return "".join(lines)


def _scans_text(modalities: Sequence[str]) -> str:
    if len(modalities) == 1:
        return "files `*.nii.gz` or `*.nii`"
    names = ", ".join(f"`<case>_{name}.nii.gz`" for name in modalities)
    return f"the files {names} of each case; a segmentation has the name of the first of them"


def _members_text(count: int) -> str:
    return "one network" if count == 1 else f"an ensemble of {count} networks"
