"""Provenance says what made a results folder; verify names whatever does not fit any more."""

import json
from pathlib import Path

import pytest
from support.training_files import write_experiment
from support.workspace import ROOT

from hstf.cli import main
from hstf.commands.verify import verify
from hstf.config.experiment import Config
from hstf.experiment import provenance as module
from hstf.experiment.layout import Layout
from hstf.experiment.provenance import code_sha256, commit, provenance, write_provenance
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, sha256_file, write_csv, write_json, write_text


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A trained experiment with its check table; the working directory is ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    config, path = write_experiment(tmp_path, output="results", warmup={"steps": 2})
    layout = Layout.of(config)
    write_text(Path("scans/a.nii.gz"), "voxels")
    row = {"case_id": "a", "file": "scans/a.nii.gz", "sha256": sha256_file(Path("scans/a.nii.gz"))}
    write_csv(layout.check, [row], list(row))
    assert main(["warmup", "--config", str(path), "--member", "fold_0"]) == 0
    write_text(layout.export / "members" / "seed_0.pt", "weights")
    digest = sha256_file(layout.export / "members" / "seed_0.pt")
    write_json(layout.export / "model.json", {"members": [{"name": "seed_0", "sha256": digest}]})
    write_provenance(config)
    return config


def test_provenance_tells_what_made_it(config: Config) -> None:
    made = read_json(Layout.of(config).provenance)
    assert (made["experiment"], made["seed"], made["hstf"]) == ("tiny", 0, module.hstf.__version__)
    assert made["packages"]["torch"] and made["packages"]["python"].startswith("3.")
    assert made["machine"]["cores"] >= 1
    assert made["data"] == {
        "file": "results/tiny/check.csv",
        "sha256": sha256_file(Layout.of(config).check),
    }
    name = made["machine"]["name"]
    assert made["machines"] == {"round_0/out_of_fold": {name: 2}, "round_0/state/fold_0": {name: 1}}
    assert {
        "check.csv",
        "plan.json",
        "round_0/model/fold_0/weights.pt",
        "round_0/out_of_fold/fold_0.csv",
    } <= set(made["files"])
    assert not any("state" in name or "records" in name for name in made["files"])


def test_it_is_the_same_whenever_it_is_written(config: Config) -> None:
    before = Layout.of(config).provenance.read_bytes()
    write_provenance(config)
    assert Layout.of(config).provenance.read_bytes() == before
    other = provenance(config.model_copy(update={"seed": 1}))
    assert other["configuration_sha256"] != json.loads(before)["configuration_sha256"]


def test_the_code_has_a_fingerprint() -> None:
    assert len(code_sha256()) == 64
    if (ROOT / ".git").is_dir():
        found = commit()
        assert found is not None and len(found) == 40


def test_a_folder_without_git_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.hstf, "__file__", str(tmp_path / "hstf" / "__init__.py"))
    assert commit() is None
    write_text(tmp_path / ".git" / "HEAD", "ref: refs/heads/main\n")
    write_text(tmp_path / ".git" / "packed-refs", "# pack-refs\n" + "a" * 40 + " refs/heads/main\n")
    assert commit() == "a" * 40
    write_text(tmp_path / ".git" / "HEAD", "b" * 40 + "\n")
    assert commit() == "b" * 40


def test_what_fits_is_counted(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "results/tiny"]) == 0
    told = capsys.readouterr().out
    assert "1 scans and labels are as they were written" in told
    assert "Made with other software" not in told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("scans/a.nii.gz", "scans/a.nii.gz was changed: SHA-256"),
        ("results/tiny/plan.json", "plan.json was changed"),
        ("results/tiny/round_0/model/fold_0/weights.pt", "weights.pt was changed"),
        ("results/tiny/export/members/seed_0.pt", "seed_0.pt was changed"),
        ("results/tiny/preprocessed/l_1/image.b2nd", "l_1: "),
        ("results/tiny/round_0/out_of_fold/fold_0.csv", "fold_0.csv was changed"),
        ("cases.csv", "cases.csv was changed"),
    ],
)
@pytest.mark.parametrize("lost", [False, True])
def test_what_does_not_fit_is_named(config: Config, name: str, told: str, lost: bool) -> None:
    path = Path(name)
    if lost:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(HstfError) as caught:
        verify(Path("results/tiny"))
    assert (
        told.replace("was changed: SHA-256", "is missing").replace("was changed", "is missing")
        if lost
        else told
    ) in str(caught.value)
    assert str(caught.value).count("\n") == 1, "nothing else is named"


def test_scans_that_stayed_elsewhere_may_be_left_out(config: Config) -> None:
    Path("scans/a.nii.gz").unlink()
    assert "scans" not in verify(Path("results/tiny"), data=False)[0]


def test_other_software_is_told_and_is_no_fault(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Layout.of(config).provenance
    write_json(
        path, {**read_json(path), "packages": {**read_json(path)["packages"], "torch": "0.1"}}
    )
    assert "Made with other software: torch 0.1, here" in verify(Path("results/tiny"))[1]


def test_what_is_no_finished_experiment(config: Config) -> None:
    with pytest.raises(HstfError, match=r"has no provenance\.json"):
        verify(Path("results"))
    write_json(Layout.of(config).provenance, {"format": 1})
    with pytest.raises(HstfError, match="is damaged"):
        verify(Path("results/tiny"))
