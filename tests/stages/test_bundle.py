"""The exported folder is a MONAI bundle that runs without hstf and segments as ``hstf predict``."""

import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import nibabel as nib
import numpy as np
import pytest
import torch
from support.tiny_model import tiny_experiment, write_scan

from hstf.commands.predict import predict
from hstf.config.export import ExportConfig, Program
from hstf.config.preprocess import PreprocessConfig
from hstf.experiment.plan import Normalisation
from hstf.imaging.preparation import prepare_image
from hstf.imaging.volumes import read_image
from hstf.method.bundle.inference import inference_config
from hstf.method.bundle.programs import Ensemble
from hstf.method.exported_model import ExportedModel, changed_files, read_exported_model
from hstf.models.registry import load_network
from hstf.stages.export import export

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "bundle.md"
DICE = 0.99
"""Lowest Dice of each class between the bundle and ``hstf predict``, as documented."""
BLOCK_HSTF = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hstf":
            raise ImportError("hstf is not installed here")
sys.meta_path.insert(0, Block())
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported ensemble of two members with both programs."""
    folder = tmp_path_factory.mktemp("bundle")
    config = tiny_experiment(folder, programs=get_args(Program))
    return export(config)[0]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two scans; the second one has a fourth axis of length 1."""
    folder = tmp_path_factory.mktemp("scans")
    image = nib.load(write_scan(folder / "a.nii.gz", shape=(31, 29, 23)))
    add_axis(image, folder / "b.nii.gz")
    return folder


def add_axis(image: nib.Nifti1Image, path: Path) -> None:
    """Write a scan with a fourth axis of length 1."""
    data = np.asarray(image.dataobj).copy()  # the file may be replaced
    nib.save(nib.Nifti1Image(data[..., None], image.affine), path)


@pytest.fixture(scope="module")
def original(bundle: Path) -> torch.nn.Module:
    """Return the networks of hstf that the programs are made from."""
    model = read_exported_model(bundle)
    return Ensemble([load_network(path)[0] for path in model.weights(bundle)])


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def without_hstf(folder: Path) -> dict[str, str]:
    """Return an environment in which hstf cannot be imported."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(BLOCK_HSTF)
    return {**os.environ, "PYTHONPATH": str(folder)}


def documented_command(name: str) -> list[str]:
    """Return the words of a command of ``monai.bundle`` in the documentation."""
    lines = PAGE.read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"python -m monai.bundle {name} ")]
    return shlex.split(line)


def check_same_segmentations(ours: Path, theirs: Path) -> None:
    first = nib.load(ours)
    second = nib.load(theirs)
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-4)
    assert second.get_data_dtype() == np.uint8
    a, b = np.asarray(first.dataobj), np.asarray(second.dataobj)
    assert len(np.unique(a)) == 3
    for value in np.unique(a):
        size = (a == value).sum() + (b == value).sum()
        assert 2 * ((a == value) & (b == value)).sum() >= DICE * size


@pytest.mark.usefixtures("no_gradients")
def test_programs_return_the_logits_of_the_networks(
    bundle: Path, original: torch.nn.Module
) -> None:
    windows = torch.randn(3, 1, 16, 16, 8)
    expected = original(windows)
    script = torch.jit.load(bundle / "models" / "model.ts")
    exported = torch.export.load(bundle / "models" / "model.pt2").module()
    torch.testing.assert_close(script(windows), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exported(windows), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exported(windows[:1]), expected[:1], atol=1e-5, rtol=1e-5)
    for member, network in zip(script.members.children(), original.members, strict=True):
        torch.testing.assert_close(member(windows), network(windows), atol=1e-5, rtol=1e-5)


def test_programs_name_no_device_and_no_file_of_this_machine(bundle: Path) -> None:
    with zipfile.ZipFile(bundle / "models" / "model.ts") as archive:
        names = archive.namelist()
        code = b"".join(archive.read(name) for name in names if name.endswith(".py"))
    assert b"forward" in code and b"cpu" not in code and b"device" not in code
    for name in ("model.ts", "model.pt2"):
        content = (bundle / "models" / name).read_bytes()
        assert b"site-packages" not in content and str(Path(__file__).parents[2]).encode() not in (
            content
        )


def test_bundle_runs_without_hstf_and_segments_as_hstf(
    bundle: Path, scans: Path, tmp_path: Path
) -> None:
    predict(bundle, scans, tmp_path / "ours", device="cpu", predicted_dice=False)
    command = documented_command("run")
    places = {"SCANS": scans, "SEGMENTATIONS": tmp_path / "theirs", "python": sys.executable}
    command = [str(places.get(word, word)) for word in command]
    environment = without_hstf(tmp_path / "block")
    done = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("a.nii.gz", "b.nii.gz"):
        check_same_segmentations(tmp_path / "ours" / name, tmp_path / "theirs" / name)
    assert changed_files(bundle) == []


def test_hstf_cannot_be_imported_in_that_environment(tmp_path: Path) -> None:
    environment = without_hstf(tmp_path / "block")
    done = subprocess.run([sys.executable, "-c", "import hstf"], env=environment, check=False)
    assert done.returncode == 1


@pytest.mark.usefixtures("no_gradients")
def test_monai_creates_the_workflow_and_exports_the_check_point(
    bundle: Path,
    original: torch.nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from monai.bundle import ckpt_export, create_workflow

    monkeypatch.chdir(bundle)
    config = Path("configs", "inference.json")
    workflow = create_workflow(
        config_file=str(config), workflow_type="inference", dataset_dir=str(tmp_path)
    )
    assert workflow.check_properties() == []
    target = tmp_path / "again.ts"
    options = documented_command("ckpt_export")[4:]
    values = dict(zip(options[::2], options[1::2], strict=True))
    assert values.keys() == {"--config_file", "--filepath"}
    ckpt_export(config_file=values["--config_file"], filepath=str(target))
    windows = torch.randn(1, 1, 16, 16, 8)
    torch.testing.assert_close(
        torch.jit.load(target)(windows), original(windows), atol=1e-5, rtol=1e-5
    )


ZSCORE = Normalisation(scheme="zscore")
CHANNELS = {
    "zscore": [ZSCORE],
    "ct": [Normalisation(scheme="ct", lower=20, upper=300, mean=150, std=70)],
    "fan": [Normalisation(scheme="fan")],
    "uptake": [Normalisation(scheme="uptake")],
    "two": [ZSCORE, Normalisation(scheme="uptake")],
    "mask": [ZSCORE, Normalisation(scheme="mask"), ZSCORE],
}


def with_channels(model: ExportedModel, channels: list[Normalisation], **preprocess: Any) -> Any:
    """Return ``model`` with other channels and settings of the preprocessing."""
    plan = model.plan.model_copy(update={"normalisation": tuple(channels)})
    names = ["image"] if len(channels) == 1 else [f"m{index}" for index in range(len(channels))]
    return model.model_copy(
        update={
            "plan": plan,
            "modalities": dict.fromkeys(names, "mr"),
            "preprocess": PreprocessConfig(**preprocess),
        }
    )


def write_padded(
    folder: Path, channels: list[Normalisation], spacing: tuple[float, float, float]
) -> list[Path]:
    """Write the channels of a scan with an empty margin, which is inside of the scan, too."""
    paths = []
    for number, channel in enumerate(channels):
        name = "case.nii.gz" if len(channels) == 1 else f"case_m{number}.nii.gz"
        path = write_scan(folder / name, seed=number, shape=(31, 29, 23))
        image = nib.load(path)
        data = image.get_fdata(dtype=np.float32)
        data[:4] = data[-3:] = data[:, :, :2] = data[15:17, 12:14, 9:11] = 0
        if channel.scheme == "mask":
            data = (data > np.median(data)).astype(np.float32)
        affine = image.affine @ np.diag([*spacing, 1])
        nib.save(nib.Nifti1Image(data, affine), path)
        paths.append(path)
    return paths


@pytest.mark.parametrize(
    ("scheme", "spacing", "preprocess"),
    [
        *((scheme, (1, 1, 1), {}) for scheme in CHANNELS),
        ("zscore", (1, 1, 1), {"crop": False}),
        ("zscore", (1, 1, 4), {"axes": "slices"}),
        ("ct", (1, 1, 4), {}),
        ("zscore", (4, 1, 1), {"axes": "slices"}),
        ("two", (1.246, 1.246, 1), {}),
    ],
)
def test_scans_reach_the_network_as_with_hstf(
    bundle: Path,
    tmp_path: Path,
    scheme: str,
    spacing: tuple[float, float, float],
    preprocess: dict[str, Any],
) -> None:
    from monai.bundle import ConfigParser

    channels = CHANNELS[scheme]
    model = with_channels(read_exported_model(bundle), channels, **preprocess)
    paths = write_padded(tmp_path, channels, spacing)
    expected, _ = prepare_image(
        [read_image(path) for path in paths], model.plan, model.preprocess, model.modalities
    )
    parser = ConfigParser(inference_config(model))
    parser["dataset_dir"] = str(tmp_path)
    item = parser.get_parsed_content("dataset")[0]["image"].numpy()
    assert item.shape == expected.shape
    for index, channel in enumerate(channels):
        difference = np.abs(item[index] - expected[index])
        if channel.scheme == "mask":
            assert not difference.any()
            continue
        assert difference.mean() < 2e-3
        assert difference[1:-1, 1:-1, 1:-1].max() < 5e-2


def test_inference_config_assigns_files_to_the_longest_modality(
    bundle: Path, tmp_path: Path
) -> None:
    """Also if their formats differ, and the folder has the name of a file."""
    from monai.bundle import ConfigParser

    folder = tmp_path / "x_t1.nii"
    for seed, name in enumerate(("a_t1.nii", "a_ce_t1.nii.gz", "b_ce_t1.nii.gz", "b_t1.nii.gz")):
        write_scan(folder / name, seed)
    add_axis(nib.load(folder / "a_t1.nii"), folder / "a_t1.nii")
    write_scan(folder / "stray.nii.gz")
    write_scan(folder / "c_ce_t1.nii.gz")
    model = with_channels(read_exported_model(bundle), [ZSCORE, ZSCORE])
    model = model.model_copy(update={"modalities": {"t1": "mr", "ce_t1": "mr"}})
    parser = ConfigParser(inference_config(model))
    parser["dataset_dir"] = str(folder)
    expected = [
        ["a_t1.nii", "a_ce_t1.nii.gz"],
        ["b_t1.nii.gz", "b_ce_t1.nii.gz"],
        ["c_t1.nii.gz", "c_ce_t1.nii.gz"],
    ]
    found = parser.get_parsed_content("datalist")
    assert found == [[str(folder / name) for name in names] for names in expected]
    images = parser.get_parsed_content("dataset")
    assert images[0]["image"].shape == images[1]["image"].shape


@pytest.mark.parametrize(
    ("modalities", "names"),
    [
        (["image"], ["a.nii", "a.nii.gz"]),
        (["t1", "t2"], ["a_t1.nii", "a_t1.nii.gz", "a_t2.nii.gz"]),
    ],
)
def test_inference_config_refuses_a_scan_that_is_there_twice(
    bundle: Path, tmp_path: Path, modalities: list[str], names: list[str]
) -> None:
    from monai.bundle import ConfigParser

    for name in names:
        write_scan(tmp_path / name)
    model = with_channels(read_exported_model(bundle), [ZSCORE] * len(modalities))
    model = model.model_copy(update={"modalities": dict.fromkeys(modalities, "mr")})
    parser = ConfigParser(inference_config(model))
    parser["dataset_dir"] = str(tmp_path)
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("dataset")
    expected = f"{tmp_path / names[0]} and {tmp_path / names[1]}: two files of one name"
    assert expected in str(caught.value.__cause__)


@pytest.mark.parametrize("normalisation", [{}, {"mean": 1.0, "std": 2.0}])
def test_small_structures_of_a_mask_reach_the_network_as_with_hstf(
    bundle: Path, tmp_path: Path, normalisation: dict[str, float]
) -> None:
    """Clicks of one voxel are between the voxels of the coarser grid, also within a structure."""
    from monai.bundle import ConfigParser

    mask = Normalisation(scheme="mask", **normalisation)
    model = with_channels(read_exported_model(bundle), [ZSCORE, mask])
    model = model.model_copy(update={"modalities": {"m0": "mr", "m1": "mask"}})
    paths = write_padded(tmp_path, [ZSCORE, mask], (0.5, 0.5, 0.5))
    image = nib.load(paths[1])
    clicks = np.zeros(image.shape, np.uint8)
    clicks[10:16, 10:16, 8:14] = 1
    clicks[12, 13, 10] = 2
    clicks[5::6, 6::7, 3::8] = 3
    nib.save(nib.Nifti1Image(clicks, image.affine), paths[1])
    volumes = [read_image(paths[0]), read_image(paths[1], is_mask=True)]
    expected, _ = prepare_image(volumes, model.plan, model.preprocess, model.modalities)
    parser = ConfigParser(inference_config(model))
    parser["dataset_dir"] = str(tmp_path)
    found = parser.get_parsed_content("dataset")[0]["image"].numpy()
    assert len(np.unique(expected[1])) == 4
    np.testing.assert_array_equal(found[1], expected[1])


def test_bundle_saves_a_sagittal_segmentation_of_several_modalities(
    bundle: Path, tmp_path: Path
) -> None:
    """MONAI took its first axis for the channels of the stacked files, and could not save it."""
    from monai.bundle import ConfigParser
    from monai.data import MetaTensor
    from monai.transforms import LoadImage

    names = ["case_m0.nii.gz", "case_m1.nii.gz"]
    scans = [write_scan(tmp_path / name) for name in names]
    model = with_channels(read_exported_model(bundle), [ZSCORE, ZSCORE])
    parser = ConfigParser(inference_config(model))
    parser["dataset_dir"] = str(tmp_path)
    parser["output_dir"] = str(tmp_path / "output")
    loaded = LoadImage(reader="NibabelReader", ensure_channel_first=True)(scans)
    label = (loaded.as_tensor()[:1] > 100).float()
    item = {"pred": MetaTensor(label, affine=loaded.affine, meta=loaded.meta)}
    for transform in parser.get_parsed_content("postprocessing").transforms[-2:]:
        item = transform(item)
    saved = nib.load(tmp_path / "output" / names[0])
    np.testing.assert_allclose(saved.affine, nib.load(scans[0]).affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(saved.dataobj), label[0].numpy())


def test_bundle_reads_a_folder_with_brackets_and_replaces_no_scan(
    bundle: Path, tmp_path: Path
) -> None:
    from monai.bundle import ConfigParser

    folder = tmp_path / "scans [2024]"
    scan = write_scan(folder / "a.nii.gz")
    content = scan.read_bytes()
    (tmp_path / "alias").symlink_to(folder)
    parser = ConfigParser(inference_config(read_exported_model(bundle)))
    parser["bundle_root"] = str(bundle)
    parser["dataset_dir"] = str(folder)
    parser["output_dir"] = str(tmp_path / "alias")
    parser.get_parsed_content("run")
    assert scan.read_bytes() == content
    assert sorted(path.name for path in folder.iterdir()) == ["a.nii.gz", "a_seg.nii.gz"]


@pytest.mark.parametrize("modalities", [["image"], ["t1", "t2"]])
def test_bundle_ends_with_an_error_without_scans(
    bundle: Path, tmp_path: Path, modalities: list[str]
) -> None:
    """MONAI itself skips an empty run with a warning, also if the folder is misspelt."""
    from monai.bundle import ConfigParser

    model = with_channels(read_exported_model(bundle), [ZSCORE] * len(modalities))
    model = model.model_copy(update={"modalities": dict.fromkeys(modalities, "mr")})
    parser = ConfigParser(inference_config(model))
    parser["dataset_dir"] = str(tmp_path / "misspelt")
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("dataset")[0]
    assert "misspelt/*" in str(caught.value.__cause__)


def test_channel_without_spread_reaches_the_network_as_with_hstf(
    bundle: Path, tmp_path: Path
) -> None:
    """A scan that is constant but for a few voxels, such as a mask, is mapped to 0 to 1."""
    from monai.bundle import ConfigParser

    voxels = np.full((31, 29, 23), 5, np.float32)
    voxels[10:12, 10:12, 10] = [[3, 9], [11, 23]]
    path = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    model = with_channels(read_exported_model(bundle), [ZSCORE])
    expected, _ = prepare_image([read_image(path)], model.plan, model.preprocess, model.modalities)
    assert expected.max() > 0.5
    parser = ConfigParser(inference_config(model))
    parser["dataset_dir"] = str(tmp_path)
    found = parser.get_parsed_content("dataset")[0]["image"].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_config_has_only_what_it_needs(bundle: Path) -> None:
    config = inference_config(read_exported_model(bundle))
    assert "uptake" not in config and "through" not in config and "zscore" in config


def test_folder_without_torchscript_has_no_workflow(tmp_path: Path) -> None:
    folder, _ = export(tiny_experiment(tmp_path))
    assert not (folder / "models").exists() and not (folder / "docs").exists()
    assert not (folder / "configs" / "inference.json").exists()
    assert "All rights of its owner are reserved" in (folder / "LICENSE").read_text()


def test_guide_names_the_files_and_the_command(bundle: Path) -> None:
    guide = (bundle / "docs" / "README.md").read_text()
    assert "python -m monai.bundle run --config_file configs/inference.json" in guide
    assert "models/model.pt2" in guide and "an ensemble of 2 networks" in guide


def test_documented_python_runs_in_the_folder(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    names: dict[str, Any] = {}
    results = []
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
        results.append(names["logits"])
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)
    assert names["of_member"].shape == results[0].shape == (2, 3, 16, 16, 8)


def test_check_point_needs_torchscript() -> None:
    with pytest.raises(ValueError, match="add torchscript"):
        ExportConfig(programs=("checkpoint",))
