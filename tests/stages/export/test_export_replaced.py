"""An export is replaced as a whole, and no file that a person has changed or added is lost."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from support.export_files import edit, files_of
from support.stages import export

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.method.bundle import folder as bundle_folder
from hstf.method.exported_model import read_exported_model
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, write_text

ONE = {"members": 1}
DECLARED = ("model.json", "configs/metadata.json", "SHA256SUMS", "README.md")
"""Files of the export that Snakemake deletes before it exports again."""


def test_export_replaces_the_last_export_as_a_whole(config: Config) -> None:
    folder = export(config)
    larger = files_of(folder)
    smaller = config.model_copy(update={"student": config.student.model_copy(update=ONE)})
    export(smaller)
    assert files_of(folder) == larger - {"members/seed_1.pt"}
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_export_that_fails_keeps_the_last_export(config: Config) -> None:
    folder = export(config)
    Layout.of(config).weights(1, "seed_1").write_bytes(b"damaged")
    with pytest.raises(HstfError, match=r"seed_1/weights\.pt"):
        export(config)
    assert read_exported_model(folder).weights(folder)
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_export_refuses_to_replace_a_changed_export(config: Config) -> None:
    folder = export(config)
    edit(folder, is_signed=False, experiment="renamed")
    with pytest.raises(HstfError, match=r"has changed since it was exported(.|\n)*model\.json"):
        export(config)
    assert read_json(folder / "model.json")["experiment"] == "renamed"
    folder.rename(folder.with_name("kept"))
    assert read_exported_model(export(config))


def delete_as_snakemake(folder: Path) -> None:
    for name in DECLARED:
        (folder / name).unlink(missing_ok=True)


def write_all(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        write_text(folder / name, text)


def texts_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in names}


@pytest.mark.parametrize("is_recorded", [True, False])
@pytest.mark.parametrize("by_workflow", [True, False])
def test_export_keeps_the_licence_and_added_files_with_a_message(
    config: Config, capsys: pytest.CaptureFixture[str], by_workflow: bool, is_recorded: bool
) -> None:
    folder = export(config)
    generated = files_of(folder)
    own = {"LICENSE": "MY CC-BY", "validation_note.txt": "signed", "docs/figure.svg": "<svg/>"}
    write_all(folder, own)
    (folder / "link").symlink_to("validation_note.txt")
    if not is_recorded:
        (folder / ".exported.sha256").unlink()
        (folder / "README.md").unlink()
    if by_workflow:
        delete_as_snakemake(folder)
    for _ in range(2):
        capsys.readouterr()
        export(config)
        printed = capsys.readouterr().out
        assert f"kept {folder / 'LICENSE'}, which was edited. Delete it and export again" in printed
        assert f"added to {folder}: docs/figure.svg, link, validation_note.txt" in printed
        assert texts_of(folder, own) == own
        assert (folder / "link").readlink() == Path("validation_note.txt")
        assert files_of(folder) == generated | set(own) | {"link"}
    (folder / "LICENSE").unlink()
    export(config)
    assert "All rights of its owner are reserved" in (folder / "LICENSE").read_text()


def test_export_prints_nothing_about_files_that_nobody_changed(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    export(config)
    export(config)
    assert "kept" not in capsys.readouterr().out


def test_export_writes_an_unchanged_text_anew(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_folder, "LICENSE", "A licence of an earlier version. {owner}")
    folder = export(config)
    assert "earlier version" in (folder / "LICENSE").read_text()
    monkeypatch.undo()
    export(config)
    assert "All rights of its owner are reserved" in (folder / "LICENSE").read_text()


def test_export_keeps_an_edited_guide(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(config)
    write_text(folder / "docs" / "README.md", "Ask Anna.")
    export(config)
    assert (folder / "docs" / "README.md").read_text() == "Ask Anna."
    assert "README.md, which was edited" in capsys.readouterr().out


@pytest.mark.parametrize("is_recorded", [True, False])
def test_export_refuses_an_edited_model_card_until_its_text_is_moved(
    config: Config, is_recorded: bool
) -> None:
    folder = export(config)
    write_text(folder / "README.md", "Approved by our committee.")
    if not is_recorded:
        (folder / ".exported.sha256").unlink()
    found = "was changed after it" if is_recorded else "may have been edited"
    with pytest.raises(HstfError, match=rf"moved to a file with another(.|\n)*README\.md {found}"):
        export(config)
    (folder / "README.md").rename(folder / "NOTES.md")
    export(config)
    assert (folder / "NOTES.md").read_text() == "Approved by our committee."
    assert "Intended use" in (folder / "README.md").read_text()


def test_export_refuses_changed_weights_after_snakemake_has_deleted_the_digests(
    config: Config,
) -> None:
    folder = export(config)
    delete_as_snakemake(folder)
    (folder / "members" / "seed_0.pt").write_bytes(b"fine-tuned")
    with pytest.raises(HstfError, match=r"members/seed_0\.pt was changed after it was exported"):
        export(config)
    assert (folder / "members" / "seed_0.pt").read_bytes() == b"fine-tuned"


def test_export_does_not_replace_an_added_file_of_the_same_name(config: Config) -> None:
    folder = export(config.model_copy(update={"student": config.student.model_copy(update=ONE)}))
    write_text(folder / "members" / "seed_1.pt", "of the owner")
    before = texts_of(folder, ["members/seed_1.pt", "SHA256SUMS", "README.md"])
    with pytest.raises(HstfError, match=r"did not write(.|\n)*Rename them(.|\n)*seed_1\.pt"):
        export(config)
    assert texts_of(folder, before) == before
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
