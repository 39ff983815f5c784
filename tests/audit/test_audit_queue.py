"""The queue, a case and its volumes, as the server of the audit desk sends them."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.audit_desk import Browser, copied, desk_of, label
from support.pseudo_label_files import AFFINE, SHAPE

from hstf.audit.desk import Desk
from hstf.audit.places import uncertain_places
from hstf.experiment.round_tables import LABELS, LESIONS
from hstf.imaging.volumes import read_label
from hstf.runtime.files import sha256_file


def voxels(content: bytes, folder: Path) -> nib.Nifti1Image:
    path = folder / "sent.nii.gz"
    path.write_bytes(content)
    return nib.load(path)


def test_session_has_classes_colours_and_rounds(desk: Desk) -> None:
    browser = Browser(desk)
    found = browser.get("/api/session").json()
    assert found["classes"] == [{"value": 3, "name": "organ", "colour": "#e64b35"}]
    assert (found["background"], found["ignore"], found["rounds"]) == (0, 9, [1])
    assert found["modalities"] == [{"name": "image", "kind": "mr"}]
    assert found["reviewer"] is None
    assert "motion artefact" in found["reasons"]


def test_reviewer_is_a_matter_of_the_browser(desk: Desk) -> None:
    first = Browser(desk, "  Dr.\n Mo ")
    second = Browser(desk, "AB")
    assert first.get("/api/session").json()["reviewer"] == "Dr. Mo"
    assert second.get("/api/session").json()["reviewer"] == "AB"
    assert first.get("/api/session").json()["reviewers"] == ["AB", "Dr. Mo"]
    assert first.post("/api/reviewer", {"name": " "}).status_code == 400
    assert first.post("/api/reviewer", {"name": "x" * 81}).status_code == 400


def test_queue_begins_with_the_least_predicted_dice(desk: Desk) -> None:
    answer = Browser(desk).get("/api/queue", params={"round": 1}).json()
    bad, good = answer["cases"]
    assert (bad["case_id"], bad["verdict"], bad["status"]) == ("bad", "rejected", "undecided")
    assert (good["case_id"], good["verdict"]) == ("good", "accepted")
    assert bad["low"] <= bad["predicted_dice"] <= bad["high"]
    assert bad["volumes"][0]["class"] == "organ" and bad["volumes"][0]["ml"] > 1
    counts = {"undecided": 2, "accepted": 0, "rejected": 0, "corrected": 0, "total": 2}
    assert answer["counts"] == counts
    assert answer["problems"] == []


def test_queue_names_volumes_outside_the_range_of_labelled_cases(desk: Desk) -> None:
    folder = desk.layout.out_of_fold
    folder.mkdir(parents=True)
    columns = "case_id,members,entropy,scale_dice,member_dice,flip_dice,volumes_ml,files,sha256"
    for name, volume in (("fold_0", 90), ("fold_1", 120)):
        (folder / f"{name}.csv").write_text(f"{columns}\na,m,0,1,1,1,organ={volume},,\n")
    volume = Browser(desk).row("bad")["volumes"][0]
    assert (volume["low_ml"], volume["high_ml"], volume["unusual"]) == (90, 120, True)


@pytest.mark.parametrize("number", ["2", "0", "-1", "x", "9" * 400, "¹"])
def test_queue_of_a_round_without_pseudo_labels_is_not_found(desk: Desk, number: str) -> None:
    answer = Browser(desk).get("/api/queue", params={"round": number})
    assert answer.status_code == 404
    assert "round" in answer.json()["error"]


def test_queue_shows_corrections_of_other_programs_and_problems(desk: Desk) -> None:
    path = desk.layout.override(1, "bad")
    path.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(label(), AFFINE), path)
    (path.parent / "case_x.nii.gz").write_bytes(b"")
    browser = Browser(desk)
    row = browser.row("bad")
    assert row["status"] == "corrected"
    assert row["decision"]["action"] == "replace" and row["decision"]["reviewer"] == ""
    problems = browser.get("/api/queue").json()["problems"]
    assert len(problems) == 1 and "case_x" in problems[0]
    case = browser.get("/api/cases/bad").json()
    assert "put there by another program" in case["notes"][0]
    assert case["layers"]["correction"]


def test_queue_asks_about_an_unusual_correction_without_a_row(desk: Desk) -> None:
    path = desk.layout.override(1, "bad")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    LABELS.write(
        desk.layout.labels_table(1),
        [{"case_id": "bad", "round": 1, "source": "corrected", "review": "question"}],
    )
    assert Browser(desk).row("bad")["status"] == "question"


def test_acceptance_of_another_version_is_open(desk: Desk) -> None:
    desk.layout.overrides.mkdir()
    header = "round,case_id,action,reviewer,date,reason,sha256"
    desk.layout.decisions.write_text(f"{header}\n1,bad,accept,AB,2026-01-01,,{'0' * 64}\n")
    browser = Browser(desk)
    row = browser.row("bad")
    assert row["status"] == "open" and row["reviewers"] == ["AB"]
    assert browser.get("/api/queue").json()["counts"]["undecided"] == 2


def test_case_has_layers_and_places(desk: Desk, tmp_path: Path) -> None:
    browser = Browser(desk)
    case = browser.get("/api/cases/bad", params={"round": 1}).json()
    layers = case["layers"]
    assert layers["previous"] is None and layers["correction"] is None
    assert layers["images"][0]["modality"] == "image"
    for url in (layers["images"][0]["url"], layers["label"], layers["weight"]):
        answer = browser.get(url)
        assert answer.status_code == 200
        image = voxels(answer.content, tmp_path)
        assert image.shape == SHAPE
        np.testing.assert_allclose(image.affine, AFFINE)
    place = case["places"][0]
    voxel = np.rint(np.linalg.inv(AFFINE) @ [*place["mm"], 1]).astype(int)[:3]
    pseudo = read_label(desk.layout.pseudo_label(1, "bad")).data
    assert pseudo[tuple(voxel)] == 3 and place["class"] == "organ"
    assert browser.get("/api/cases/bad/places").json()["places"] == case["places"]
    assert browser.get("/api/cases/bad", params={"places": "0"}).json()["places"] == []


def test_disagreement_is_resampled_to_the_grid_of_the_image(desk: Desk, tmp_path: Path) -> None:
    browser = Browser(desk)
    url = browser.get("/api/cases/bad").json()["layers"]["disagreement"]
    image = voxels(browser.get(url).content, tmp_path)
    assert image.shape == SHAPE and set(np.unique(image.dataobj)) == {10}
    assert len(list(desk.cache.glob("*.nii.gz"))) == 1
    browser.get(url)
    assert len(list(desk.cache.glob("*.nii.gz"))) == 1


def test_image_of_another_format_is_sent_as_nifti(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import SimpleITK

    config = copied(template, tmp_path)
    monkeypatch.chdir(tmp_path)
    image = SimpleITK.ReadImage("bad.nii.gz")
    whole = SimpleITK.Cast(image * 100, SimpleITK.sitkInt32)
    SimpleITK.WriteImage(whole, "bad.nrrd")
    text = Path("cases.csv").read_text().replace("bad.nii.gz", "bad.nrrd")
    Path("cases.csv").write_text(text)
    browser = Browser(desk_of(config, tmp_path / "cache"))
    sent = voxels(browser.get("/api/cases/bad/layers/image-0.nii.gz").content, tmp_path)
    assert sent.get_data_dtype() == np.int16
    np.testing.assert_allclose(sent.affine, AFFINE, atol=1e-5)
    expected = SimpleITK.GetArrayFromImage(whole).transpose(2, 1, 0)
    np.testing.assert_array_equal(np.asarray(sent.dataobj), expected)


def test_layer_is_not_sent_again(desk: Desk) -> None:
    browser = Browser(desk)
    first = browser.get("/api/cases/bad/layers/label.nii.gz")
    again = {"If-None-Match": first.headers["etag"]}
    assert browser.get("/api/cases/bad/layers/label.nii.gz", headers=again).status_code == 304
    desk.layout.pseudo_label(1, "bad").write_bytes(b"new")
    changed = browser.get("/api/cases/bad/layers/label.nii.gz", headers=again)
    assert changed.content == b"new"


@pytest.mark.parametrize(
    "name", ["image-1", "image-", "image-x", "other", "previous", "..%2F..%2Fcases.csv"]
)
def test_other_layers_are_not_found(desk: Desk, name: str) -> None:
    answer = Browser(desk).get(f"/api/cases/bad/layers/{name}.nii.gz")
    assert answer.status_code == 404
    assert "error" in answer.json()


@pytest.mark.parametrize("name", ["nobody", "..", "%2e%2e%2fbad", "bad%00", "bad%2f..%2fgood"])
def test_other_cases_are_not_found(desk: Desk, name: str) -> None:
    for suffix in ("", "/layers/label.nii.gz"):
        assert Browser(desk).get(f"/api/cases/{name}{suffix}").status_code == 404


def add_round(desk: Desk) -> None:
    """Let round 2 have the pseudo-labels of round 1."""
    source = desk.layout.refine(1).parent
    shutil.copytree(source, source.with_name("round_2"), dirs_exist_ok=True)


def correct_elsewhere(desk: Desk, number: int, shift: int = 0) -> Path:
    """Save a corrected label of ``bad`` as another program does."""
    path = desk.layout.override(number, "bad")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(label(shift), AFFINE), path)
    return path


def test_correction_of_an_earlier_round_is_shown_until_a_later_decision(
    desk: Desk, tmp_path: Path
) -> None:
    add_round(desk)
    correct_elsewhere(desk, 1)
    browser = Browser(desk)
    second = {"round": 2, "places": "0"}
    url = browser.get("/api/cases/bad", params=second).json()["layers"]["correction"]
    sent = voxels(browser.get(url).content, tmp_path)
    np.testing.assert_array_equal(np.asarray(sent.dataobj), label())
    header = "round,case_id,action,reviewer,date,reason"
    desk.layout.decisions.write_text(f"{header}\n2,bad,accept,AB,2026-01-01,auto is better\n")
    case = browser.get("/api/cases/bad", params=second).json()
    assert case["decision"]["action"] == "accept"
    assert case["layers"]["correction"] is None
    assert case["layers"]["correction_sha256"] is None
    answer = browser.get("/api/cases/bad/layers/correction.nii.gz", params={"round": 2})
    assert answer.status_code == 404
    first = browser.get("/api/cases/bad", params={"round": 1, "places": "0"}).json()
    assert first["layers"]["correction"]


def test_correction_of_a_rejected_case_is_shown_with_a_note(desk: Desk) -> None:
    correct_elsewhere(desk, 1)
    header = "round,case_id,action,reviewer,date,reason"
    desk.layout.decisions.write_text(f"{header}\n1,bad,reject,AB,2026-01-01,motion\n")
    case = Browser(desk).get("/api/cases/bad").json()
    assert case["layers"]["correction"] and "is not used" in case["notes"][0]


def test_address_of_a_correction_names_its_version(desk: Desk) -> None:
    browser = Browser(desk)
    path = correct_elsewhere(desk, 1)
    before = browser.get("/api/cases/bad").json()["layers"]
    assert before["correction_sha256"] == sha256_file(path)
    assert browser.get(before["correction"]).content == path.read_bytes()
    correct_elsewhere(desk, 1, shift=2)
    after = browser.get("/api/cases/bad").json()["layers"]
    assert after["correction"] != before["correction"]
    assert browser.get(after["correction"]).content == path.read_bytes()
    answer = browser.get(before["correction"])
    assert answer.status_code == 409 and "Open the case again" in answer.json()["error"]


def test_correction_outside_the_folder_is_not_sent(desk: Desk, tmp_path: Path) -> None:
    outside = correct_elsewhere(desk, 1).rename(tmp_path / "outside.nii.gz")
    desk.layout.override(1, "bad").symlink_to(outside)
    browser = Browser(desk)
    assert browser.get("/api/cases/bad").json()["layers"]["correction"] is None
    assert browser.get("/api/cases/bad/layers/correction.nii.gz").status_code == 404


def test_places_are_distinct_and_begin_with_most_doubt(tmp_path: Path) -> None:
    data = np.zeros((40, 40, 40), np.uint8)
    data[4:36, 4:36, 4:36] = 2
    weight = np.full(data.shape, 255, np.uint8)
    weight[8:12, 8:12, 8:12] = 0
    weight[28:32, 28:32, 28:32] = 100
    weight[0:3] = 0  # background does not matter
    affine = np.diag([2.0, 2, 2, 1])
    for name, array in (("label", data), ("weight", weight)):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    places = uncertain_places(tmp_path / "label.nii.gz", tmp_path / "weight.nii.gz", {2: "liver"})
    assert [place["weight"] for place in places] == [0.0, 0.392]
    for place, low in zip(places, (16, 56), strict=True):
        assert all(low <= mm <= low + 8 for mm in place["mm"])
        assert place["class"] == "liver"


def test_places_without_doubt_are_the_middle_of_the_foreground(tmp_path: Path) -> None:
    data = np.zeros((20, 20, 20), np.uint8)
    data[10:14, 10:14, 10:14] = 1
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "label.nii.gz")
    weight = np.full(data.shape, 255, np.uint8)
    nib.save(nib.Nifti1Image(weight, np.eye(4)), tmp_path / "weight.nii.gz")
    files = (tmp_path / "label.nii.gz", tmp_path / "weight.nii.gz")
    (place,) = uncertain_places(*files, {1: "liver"})
    assert place["weight"] == 1.0 and all(10 <= mm <= 13 for mm in place["mm"])
    assert uncertain_places(*files, {2: "spleen"}) == []


def test_lesions_are_listed_one_by_one(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copied(template, tmp_path, lesions=["organ"])
    monkeypatch.chdir(tmp_path)
    desk = desk_of(config, tmp_path / "cache")
    found = [
        {"component": 1, "probability": 0.2, "kept": False, "x_mm": 1.0, "y_mm": 2.0, "z_mm": 3.0},
        {"component": 2, "probability": 0.9, "kept": True, "x_mm": 4.0, "y_mm": 5.0, "z_mm": 6.0},
    ]
    found += [{"component": 3 + k, "probability": 0.01, "kept": False} for k in range(80)]
    LESIONS.write(
        desk.layout.pseudo_labels(1) / "bad.lesions.csv",
        [{"case_id": "bad", "class": "organ", "volume_ml": 0.5, **row} for row in found],
    )
    components = Browser(desk).get("/api/cases/bad").json()["components"]
    assert len(components) == 51
    assert [component["number"] for component in components[:2]] == [2, 1]
    assert components[0]["centre"] == [4.0, 5.0, 6.0] and components[0]["kept"]


def test_open_cases_are_marked_for_others(desk: Desk) -> None:
    first = Browser(desk, "AB")
    second = Browser(desk, "CD")
    assert first.post("/api/cases/bad/open", {"round": 1}).json() == {"opened_by": []}
    assert first.row("bad")["opened_by"] == []
    assert second.row("bad")["opened_by"] == ["AB"]
    assert "AB has this case open." in second.get("/api/cases/bad").json()["notes"]
    first.post("/api/cases/bad/close", {"round": 1})
    assert second.row("bad")["opened_by"] == []


def test_open_mark_ends_after_a_minute(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Browser(desk, "AB")
    first.post("/api/cases/bad/open", {"round": 1})
    monkeypatch.setattr("hstf.audit.marks.SECONDS", -1)
    assert Browser(desk).row("bad")["opened_by"] == []


def test_desk_shows_static_files_and_a_missing_address_is_a_sentence(desk: Desk) -> None:
    browser = Browser(desk)
    assert browser.get("/api/nothing").json() == {"error": "Not Found."}
    assert browser.get("/%2e%2e/server.py").status_code == 404


def test_desk_shows_the_cases_of_a_run_that_was_made_meanwhile(desk: Desk) -> None:
    browser = Browser(desk)
    assert len(browser.get("/api/queue").json()["cases"]) == 2
    sheet = Path("cases.csv").read_text()
    row = next(line for line in sheet.splitlines() if line.startswith("bad,"))
    Path("cases.csv").write_text(sheet + row.replace("bad", "new") + "\n")
    for name in ("bad.nii.gz", *map(str, desk.layout.pseudo_labels(1).glob("bad.*"))):
        copy = name.replace("bad.", "new.")
        Path(copy).write_bytes(Path(name).read_bytes())
    table = desk.layout.refine(1).read_text()
    row = next(line for line in table.splitlines() if line.startswith("bad,"))
    desk.layout.refine(1).write_text(table + row.replace("bad", "new") + "\n")
    config = desk.layout.config
    config.write_text(config.read_text().replace("rounds: 2", "rounds: 3"))
    names = [case["case_id"] for case in browser.get("/api/queue").json()["cases"]]
    assert sorted(names) == ["bad", "good", "new"]
    assert desk.config.rounds == 3
