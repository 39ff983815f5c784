"""The kit for a GPU machine without a network: parcels, steps, and the whole way there and back."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

KIT = Path(__file__).parent / "benchmarks" / "gpu_kit"
sys.path.insert(0, str(KIT))

from parcel import MIB, ParcelError, missing_parts, read_json, seal, take_in, unseal  # noqa: E402
from run_slice import together  # noqa: E402
from steps import Records, Step, files_to_send, split_steps  # noqa: E402

# ---- parcels


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A large file that does not compress, a small one, an empty one, one behind a link."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "large").write_bytes(os.urandom(250_000))
    (folder / "small").write_text("words")
    (folder / "empty").touch()
    (folder / "link").symlink_to(folder / "small")
    return {f"a/b/{path.name}": path for path in folder.iterdir()}


def test_a_parcel_comes_out_as_it_went_in(tmp_path: Path, files: dict[str, Path]) -> None:
    manifest = seal(tmp_path / "out", "data", files, 100_000, slices=3)
    assert manifest["slices"] == 3
    assert [part["bytes"] for part in manifest["parts"]][:2] == [100_000, 100_000]
    assert all((tmp_path / "out" / part["file"]).stat().st_size <= 100_000 for part in manifest["parts"])
    unseal(tmp_path / "out", read_json(tmp_path / "out" / "data.json"), tmp_path / "into")
    assert {name: (tmp_path / "into" / name).read_bytes() for name in files} == {
        name: path.read_bytes() for name, path in files.items()
    }
    assert not (tmp_path / "into" / "a/b/link").is_symlink()


def test_the_same_files_make_the_same_parcel(tmp_path: Path, files: dict[str, Path]) -> None:
    assert seal(tmp_path / "1", "data", files, MIB) == seal(tmp_path / "2", "data", files, MIB)


def test_missing_and_damaged_parts_are_all_named(tmp_path: Path, files: dict[str, Path]) -> None:
    manifest = seal(tmp_path, "data", files, 100_000)
    (tmp_path / "data.0").unlink()
    (tmp_path / "data.2").write_bytes(b"x")
    first, second = missing_parts(tmp_path, manifest)
    assert "data.0" in first and "not here" in first
    assert "data.2" in second and "damaged" in second
    with pytest.raises(ParcelError, match=r"data\.0(?s:.)*data\.2"):
        unseal(tmp_path, manifest, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_parts_gather_over_several_deliveries(tmp_path: Path, files: dict[str, Path]) -> None:
    manifest = seal(tmp_path / "out", "data", files, 100_000)
    parts = sorted((tmp_path / "out").iterdir())
    for delivery in (parts[:1], parts[1:3], parts[3:]):
        folder = tmp_path / f"delivery_{delivery[0].name}"
        folder.mkdir()
        for part in delivery:
            (folder / part.name).write_bytes(part.read_bytes())
        take_in(folder, tmp_path / "inbox")
    assert missing_parts(tmp_path / "inbox", manifest) == []


# ---- steps


def step(name: str, inputs: tuple[str, ...], rule: str = "") -> Step:
    """A step that writes the file of its own name."""
    return Step(f"key_{name}", rule or name, f"hstf {name}", inputs, (name,), ())


STEPS = [
    step("preprocess", ()),
    step("warmup", ("preprocess",)),
    step("teacher", ("warmup", "preprocess")),
    step("refine", ("teacher",)),
    step("refined", ("refine",), rule="refine_table"),
    step("student", ("refined", "preprocess")),
]


def finish(records: Records, *names: str) -> None:
    for one in STEPS:
        if one.rule in names or one.outputs[0] in names:
            (records.root / one.outputs[0]).write_text(one.rule)
            records.add(one, one.outputs, done=True, seconds=1)


def left(records: Records) -> list[str]:
    return [one.outputs[0] for one in split_steps(STEPS, records)[0]]


def test_lost_files_are_made_again_only_where_they_are_read(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert left(records) == [one.outputs[0] for one in STEPS]
    finish(records, "preprocess", "warmup", "teacher", "refine", "refined")
    assert left(records) == ["student"]
    (tmp_path / "teacher").unlink()  # nobody reads it any more
    assert left(records) == ["student"]
    (tmp_path / "preprocess").unlink()  # the student does
    assert left(records) == ["preprocess", "student"]
    (tmp_path / "refine").unlink()  # read through the table that joins it; and the teacher is read by it
    assert left(records) == ["preprocess", "teacher", "refine", "student"]


def test_a_step_with_another_key_is_not_done(tmp_path: Path) -> None:
    records = Records(tmp_path)
    finish(records, *(one.outputs[0] for one in STEPS))
    assert left(records) == []
    changed = Step("other", *list(vars(STEPS[-1]).values())[1:])
    assert split_steps([*STEPS[:-1], changed], records)[0] == [changed]


def test_what_is_needed_travels_before_what_is_not(tmp_path: Path) -> None:
    records = Records(tmp_path)
    finish(records, "preprocess", "warmup")
    (tmp_path / "warmup").write_bytes(bytes(200_000))
    (tmp_path / "round_1/state").mkdir(parents=True)
    (tmp_path / "round_1/state/state.pt").write_bytes(bytes(400_000))
    records.add(STEPS[2], ["round_1/state/state.pt"], done=False, seconds=1)

    def sent(budget: int | None, known: tuple[str, ...] = ()) -> tuple[set[str], list[str]]:
        names, out = files_to_send(STEPS, records, ["preprocess"], budget, known)
        return {name for name in names if not name.startswith(".gpu_kit")}, out

    assert sent(None) == ({"warmup", "round_1/state/state.pt"}, [])
    assert sent(300_000) == ({"warmup"}, ["round_1/state/state.pt"])
    assert sent(500_000, known=("warmup",)) == ({"round_1/state/state.pt"}, [])


def test_the_state_of_a_finished_training_is_forgotten(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.add(STEPS[1], ["round_0/state/fold_0/state.pt", "round_0/begun"], done=False, seconds=2)
    records.add(STEPS[1], ["warmup"], done=True, seconds=3)
    assert records.files(STEPS[1]) == ["round_0/begun", "warmup"]
    assert json.loads(records.path(STEPS[1]).read_text())["seconds"] == 5


def test_steps_of_one_kind_run_together_once_all_they_read_is_there() -> None:
    folds = [Step(f"fold_{k}", "warmup", "", (), (f"fold_{k}",), ()) for k in range(3)]
    second = Step("late", "warmup", "", ("fold_0",), ("late",), ())
    assert together([*folds, second, STEPS[2]], 2) == folds[:2]
    assert together([*folds, second], 9) == folds
    assert together([second, STEPS[2]], 3) == [second]


# ---- the whole way

ASSUMED = ["torch", "numpy", "scipy", "pandas", "matplotlib", "pillow"]
CONFIG = {
    "experiment": "tiny",
    "cases": "data/cases.csv",
    "labels": {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "lesion": 4},
    "rounds": 1,
    "device": "cpu",
    "plan": {"memory_gb": 1, "max_patch_voxels": 4096, "base_channels": 4, "stages": 3},
    "network": {"transformer_layers": 1, "transformer_heads": 2},
    "warmup": {"folds": 2, "steps": 8, "history_every": 4, "checkpoint_seconds": 0},
    "refine": {"minimum_predicted_dice": 0.0},
    "student": {"steps": 800, "history_every": 20, "checkpoint_seconds": 0},
    "teacher": {"scales": [1.0, 1.25], "overlap": 0.25},
    "predict": {"overlap": 0.25},
    "evaluate": {"bootstrap": 100},
}


def python(*arguments: str | Path, cwd: Path, executable: str = sys.executable) -> tuple[int, str]:
    """Exit code and output of a script of the kit."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [executable, *map(str, arguments)], cwd=cwd, env=clean, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a phantom data set and a configuration."""
    folder = tmp_path / "project"
    folder.mkdir()
    size = ["--cases", "9", "--labelled", "4", "--test", "2", "--size", "24", "24", "24"]
    code, output = python("-m", "hstf", "phantom", "--output", "data", *size, cwd=folder)
    assert code == 0, output
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


@pytest.fixture
def machine(tmp_path: Path) -> str:
    """A Python of its own that has what the GPU machine is assumed to have, and pip, and nothing else."""
    folder = tmp_path / "machine"
    venv.create(folder, with_pip=True)
    site = next(folder.glob("lib/python*/site-packages"))
    here = Path(sysconfig.get_path("purelib"))
    lacking = {name.split("-")[0].lower() for name in lacking_wheels()} | {
        "hstf",
        "snakemake",
        "mlflow",
        "pip",
    }
    for path in here.iterdir():
        if path.name.split("-")[0].lower() not in lacking and not path.name.startswith("__editable"):
            target = site / path.name
            if not target.exists():
                target.symlink_to(path)
    return str(folder / "bin" / "python")


def lacking_wheels() -> list[str]:
    """Import and distribution names of packages that travel as wheels."""
    return ["monai", "nibabel", "pydantic", "pydantic_core", "blosc2", "ndindex", "numexpr", "msgpack", "cc3d",
            "connected_components_3d", "annotated_types", "typing_inspection"]  # fmt: skip


@pytest.mark.skipif(
    "HSTF_NETWORK" not in os.environ, reason="fetches wheels and takes minutes; set HSTF_NETWORK=1"
)
def test_slice_after_slice_on_fresh_machines_until_all_is_done(
    project: Path, machine: str, tmp_path: Path
) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    pack = [KIT / "pack.py", "--config", "config.yaml", "--python", version]
    code, output = python(*pack, cwd=project)
    assert code == 0, output
    out, back = project / ".gpu_kit" / "out", tmp_path / "back"

    code, output = _slice(machine, tmp_path / "empty", tmp_path / "work", back, 30)
    assert code == 4 and "code.json: is not here yet" in output

    codes = []
    for _ in range(12):
        code, output = _slice(
            machine, out, tmp_path / f"work_{len(codes)}", back, 35
        )  # a fresh machine each time
        print(output)
        codes.append(code)
        assert code in (0, 3), output
        code, output = python(KIT / "collect.py", back, cwd=project)
        assert code == 0, output
        if codes[-1] == 0:
            break
        code, output = python(*pack, cwd=project)
        assert code == 0, output
    assert codes[-1] == 0 and len(codes) > 1
    results = project / "results" / "tiny"
    log = (results / "logs" / "student" / "round_1_seed_0.log").read_text()
    assert (
        "resumes at step" in log and "resumes at step 0" not in log
    )  # its preprocessed scans were made again
    assert (results / "report" / "report.html").is_file()
    assert (results / "export" / "model.json").is_file()
    assert read_json(project / ".gpu_kit" / "slices.json")[-1]["left"] == 0
    assert "all steps are done" in output


def _slice(machine: str, parcels: Path, work: Path, back: Path, seconds: int) -> tuple[int, str]:
    script = KIT / "run_slice.py"
    work.parent.mkdir(exist_ok=True)
    limits = ["--seconds", str(seconds), "--reserve", "5"]
    return python(
        script,
        "--parcels",
        parcels,
        "--work",
        work,
        "--out",
        back,
        *limits,
        cwd=work.parent,
        executable=machine,
    )
