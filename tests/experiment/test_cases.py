"""The case sheet: what it refuses, its shards, and withheld labels."""

import unicodedata
from pathlib import Path

import pytest
from support.written_tables import WAYS

from hstf.config.experiment import Config
from hstf.experiment.case_rules import refuse_foreign_files, refuse_missing_files
from hstf.experiment.cases import Case, CaseSheet, Split, read_cases
from hstf.runtime.errors import HstfError

HEADER = "case_id,image,label,split,group,site\n"
VALID = (
    HEADER
    + "p1,a.nii.gz,al.nii.gz,labelled,g1,x\np2,b.nii.gz,,unlabelled,,\np3,/c.nii,cl.nii,test,,y\n"
)


def read(folder: Path, text: str | bytes, **values: object) -> CaseSheet:
    path = folder / "cases.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_cases(Config.model_validate({"cases": str(path), **values}))


def problems(folder: Path, text: str | bytes, **values: object) -> str:
    with pytest.raises(HstfError) as caught:
        read(folder, text, **values)
    return str(caught.value)


def test_read_cases_returns_the_rows(tmp_path: Path) -> None:
    first, second, third = read(tmp_path, VALID).cases
    assert (first.case_id, first.images, first.split) == (
        "p1",
        (tmp_path / "a.nii.gz",),
        Split.LABELLED,
    )
    assert (first.group, first.site, first.training_label) == ("g1", "x", tmp_path / "al.nii.gz")
    assert (second.reference, second.group, second.site) == (None, "p2", "")
    assert third.images == (Path("/c.nii"),)


def test_read_cases_finds_files_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    text = VALID.replace("a.nii.gz", "~/a.nii.gz").replace("al.nii", "~/al.nii")
    text = text.replace("b.nii.gz", "~nobody_here.nii.gz")
    first, second, _ = read(tmp_path, text).cases
    assert first.images == (Path("/home/somebody/a.nii.gz"),)
    assert first.training_label == Path("/home/somebody/al.nii.gz")
    assert second.images == (tmp_path / "~nobody_here.nii.gz",)


@pytest.mark.parametrize("way", WAYS)
def test_read_cases_accepts_sheets_of_spreadsheets(tmp_path: Path, way: str) -> None:
    assert read(tmp_path, WAYS[way](VALID)) == read(tmp_path, VALID)


def test_read_cases_accepts_splits_in_upper_case(tmp_path: Path) -> None:
    text = "case_id,image,split\np1,a.nii,Unlabelled\np2,b.nii,UNLABELLED\n"
    assert len(read(tmp_path, text).of(Split.UNLABELLED)) == 2


def test_read_cases_distinguishes_modalities_by_their_letter_case(tmp_path: Path) -> None:
    text = "case_id,t1,T1,split\np1,a.nii,b.nii,unlabelled\n"
    sheet = read(tmp_path, text, modalities={"T1": "mr", "t1": "mr"})
    assert [path.name for path in sheet.cases[0].images] == ["b.nii", "a.nii"]


def test_read_cases_orders_channels_by_the_configuration(tmp_path: Path) -> None:
    text = "flair,case_id,t1,split\nf.nii,p1,t.nii,unlabelled\n"
    sheet = read(tmp_path, text, modalities={"t1": "mr", "flair": "mr"})
    assert [path.name for path in sheet.cases[0].images] == ["t.nii", "f.nii"]


@pytest.mark.parametrize(
    "case_id",
    [
        "; rm -rf",
        "../x",
        "a/b",
        ".hidden",
        "-flag",
        "",
        "a b",
        "x" * 129,
        "ä",
        "$(id)",
        "a\nb",
        "a{shard}",
        "a;b",
    ],
)
def test_read_cases_refuses_ids_that_are_unsafe_in_paths(tmp_path: Path, case_id: str) -> None:
    message = problems(tmp_path, f'{HEADER}"{case_id}",a.nii,l.nii,labelled,,\n')
    assert "must be letters, digits" in message


@pytest.mark.parametrize("case_id", ["p1.weight", "p1.nii.gz", "p1.NII", "labelled_0.csv", "p1."])
def test_read_cases_refuses_ids_that_end_like_files(tmp_path: Path, case_id: str) -> None:
    assert "must not end like a file" in problems(
        tmp_path, f"{HEADER}{case_id},a.nii,l.nii,labelled,,\n"
    )


def test_read_cases_lists_all_problems(tmp_path: Path) -> None:
    text = HEADER + (
        "p1,a.nii,,labelled,,\n"
        "p1,,l.nii,labelled,,\n"
        "\n"
        "p3,c.nii,,training,,\n"
        "P4,d.nii,,test,,\n"
        "p4,d.nii,,unlabelled,,,stray, cells\n"
        "p5\n"
    )
    message = problems(tmp_path, text)
    for problem in (
        "9 problems",
        "line 2 (p1): a labelled case needs a file in column 'label'",
        "line 3 (p1): no file in column 'image'",
        "line 5 (p3): split 'training' is not one of labelled, unlabelled, validation, test",
        "line 6 (P4): a test case needs",
        "line 7 (p4): more cells than columns, the last are 'stray cells'",
        "line 8 (p5): split ''",
        "line 8 (p5): no file in column 'image'",
        "case_id 'p1' appears 2 times",
        "case_id 'P4' and 'p4': names must differ in more than their letter case",
    ):
        assert problem in message


def test_read_cases_checks_the_header(tmp_path: Path) -> None:
    assert "column 'split' is missing" in problems(tmp_path, "case_id,image\np1,a.nii\n")
    assert "column 't1' is missing" in problems(tmp_path, VALID, modalities={"t1": "mr"})
    assert "column 'image' appears 2 times" in problems(
        tmp_path, "case_id,split,image,image\np1,unlabelled,a,b\n"
    )
    assert "'groups' is unknown; did you mean 'group'?" in problems(
        tmp_path, VALID.replace("group", "groups")
    )
    assert "'Sites' is unknown; did you mean 'site'?" in problems(
        tmp_path, VALID.replace("site", "Sites")
    )
    sheet = read(tmp_path, VALID.replace("site", "age"))
    assert (len(sheet.cases), sheet.unread_columns) == (3, ("age",))


@pytest.mark.parametrize("name", ["patient", "Patient_ID", "subject", "participant_id", "MRN"])
def test_read_cases_refuses_patients_under_another_name(tmp_path: Path, name: str) -> None:
    """Otherwise each case is a patient, and patients are in several splits."""
    assert f"column {name!r} is not read; if it names the patients, rename it to 'group'" in (
        problems(tmp_path, VALID.replace("group", name))
    )
    both = read(tmp_path, VALID.replace("site", name))
    assert both.unread_columns == (name,)


def test_refuse_foreign_files_accepts_the_files_of_the_demo_only(tmp_path: Path) -> None:
    rows = "case_000,{0}/images/case_000.nii.gz,{0}/labels/case_000.nii.gz,labelled,,\n"
    refuse_foreign_files(read(tmp_path, HEADER + rows.format("demo")), tmp_path / "demo")
    with pytest.raises(HstfError, match=r"case_000: .*other/labels/case_000\.nii\.gz"):
        refuse_foreign_files(read(tmp_path, HEADER + rows.format("other")), tmp_path / "demo")
    named = rows.replace("images/case_000", "images/patient_7")
    with pytest.raises(HstfError, match="patient_7"):
        refuse_foreign_files(read(tmp_path, HEADER + named.format("demo")), tmp_path / "demo")
    (tmp_path / "mine").mkdir()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "images").symlink_to(tmp_path / "mine")
    with pytest.raises(HstfError, match="remove the section 'phantom'"):
        refuse_foreign_files(read(tmp_path, HEADER + rows.format("demo")), tmp_path / "demo")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "column 'case_id' is missing"),
        (HEADER.encode(), "it has no case"),
        ("case_id,image,split\nMüller,a.nii,test\n".encode("cp1252"), "is not UTF-8"),
        (VALID.encode("utf-16-le") + b"\xff", "is not UTF-8"),
        (VALID.encode("utf-16-le"), "has bytes of value 0"),
        (VALID.encode("utf-32"), "has bytes of value 0"),
        (VALID.replace("a.nii", "a\0.nii").encode(), "has bytes of value 0"),
    ],
)
def test_read_cases_refuses_files_that_are_no_sheet(
    tmp_path: Path, content: bytes, message: str
) -> None:
    assert message in problems(tmp_path, content)


def test_read_cases_shows_invisible_characters_of_the_header(tmp_path: Path) -> None:
    """Zero-width spaces come from web pages, a second byte order mark from joined files."""
    assert r"label, split\u200b, group" in problems(tmp_path, VALID.replace("split", "split\u200b"))
    assert r"there are: \ufeffcase_id, " in problems(tmp_path, "\ufeff\ufeff" + VALID)


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_refuse_missing_files_explains_a_name_in_another_unicode_form(
    tmp_path: Path, form: str, other: str
) -> None:
    name = "Müller.nii.gz"
    folder = tmp_path / unicodedata.normalize(other, "Köln")
    folder.mkdir()
    (folder / unicodedata.normalize(other, name)).touch()
    listed = unicodedata.normalize(form, f"Köln/{name}")
    sheet = read(tmp_path, HEADER + f"p1,{listed},,unlabelled,,\n")
    if sheet.cases[0].images[0].exists():
        pytest.skip("this disk takes both forms for the same name")
    with pytest.raises(HstfError, match=rf"Unicode {other} and not {form}.* --{form.lower()} "):
        refuse_missing_files(sheet)


def test_refuse_missing_files_names_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "scans").symlink_to("disk")
    sheet = read(tmp_path, HEADER + "p1,scans/a.nii.gz,,unlabelled,,\n")
    with pytest.raises(HstfError, match=r"scans is a link to disk, which cannot be found"):
        refuse_missing_files(sheet)


def test_refuse_missing_files_shows_invisible_characters(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    sheet = read(tmp_path, HEADER + "p1,a\u200b.nii.gz,,unlabelled,,\n")
    with pytest.raises(HstfError, match=r"p1: .*/a\\u200b\.nii\.gz is missing$"):
        refuse_missing_files(sheet)


def test_read_cases_names_a_missing_sheet(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "absent.csv", "the case sheet is missing"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(HstfError, match=message):
            read_cases(Config.model_validate({"cases": str(path)}))


def test_training_label_is_withheld(tmp_path: Path) -> None:
    text = HEADER + "p1,a,al,labelled,,\np2,b,bl,unlabelled,,\np3,c,cl,test,,\n"
    cases = {case.case_id: case for case in read(tmp_path, text).cases}
    assert cases["p1"].training_label.name == "al"
    for name in ("p2", "p3"):
        assert cases[name].reference is not None
        with pytest.raises(PermissionError, match="withheld"):
            _ = cases[name].training_label


def test_shards_have_a_fixed_size(tmp_path: Path) -> None:
    lines = [f"u{i},{i}.nii,,unlabelled,,\n" for i in range(5)]
    sheet = read(tmp_path, HEADER + "".join(lines))
    names = {
        name: [case.case_id for case in part]
        for name, part in sheet.shards(Split.UNLABELLED, 2).items()
    }
    assert names == {
        "unlabelled_0": ["u0", "u1"],
        "unlabelled_1": ["u2", "u3"],
        "unlabelled_2": ["u4"],
    }
    assert sheet.shards(Split.LABELLED, 2) == {}
    assert [case.case_id for case in sheet.shard("unlabelled_2", 2)] == ["u4"]
    with pytest.raises(
        HstfError, match=r"unlabelled_3: there is no such shard. There are unlabelled_0"
    ):
        sheet.shard("unlabelled_3", 2)
    longer = read(tmp_path, HEADER + "".join(lines) + "u5,5.nii,,unlabelled,,\n").shards(
        Split.UNLABELLED, 2
    )
    assert all(
        longer[name] == part for name, part in list(sheet.shards(Split.UNLABELLED, 2).items())[:2]
    )


@pytest.mark.parametrize(("count", "maximum"), [(250, 100), (20_000, 100), (20_001, 500)])
def test_shards_without_a_size_are_larger_for_many_cases(count: int, maximum: int) -> None:
    cases = [
        Case(f"u{number}", ("a.nii",), None, Split.UNLABELLED, "", "") for number in range(count)
    ]
    shards = CaseSheet(tuple(cases)).shards(Split.UNLABELLED, None)
    assert max(len(part) for part in shards.values()) == maximum
    assert sum(len(part) for part in shards.values()) == count


def test_withheld_labels_reveal_unlabelled_cases_only(
    tmp_path: Path,
) -> None:
    text = HEADER + "p1,a,al,labelled,,\np2,b,bl,unlabelled,,\np3,c,cl,test,,\n"
    cases = {case.case_id: case for case in read(tmp_path, text, withheld_labels=True).cases}
    assert [case.split for case in cases.values()] == [Split.LABELLED, Split.LABELLED, Split.TEST]
    assert cases["p2"].training_label.name == "bl"
    with pytest.raises(PermissionError, match="withheld"):
        _ = cases["p3"].training_label
    missing = HEADER + "p1,a,al,labelled,,\np2,b,,unlabelled,,\np4,b,,unlabelled,,\n"
    message = problems(tmp_path, missing, withheld_labels=True)
    assert "2 problems" in message
    assert "line 4 (p4): withheld_labels needs a file in column 'label'" in message


def test_read_cases_refuses_straddling_patients(tmp_path: Path) -> None:
    """A test case may be added long after the data were checked."""
    rows = [
        "p1,a,al,labelled,ann,",
        "p2,b,,unlabelled,bob,",
        "p3,c,cl,test,ann,",
        "p4,d,dl,test,bob,",
        "p5,e,el,test,eve,",
    ]
    with pytest.raises(HstfError, match="test patients are in other splits too") as error:
        read(tmp_path, HEADER + "\n".join(rows))
    assert "patient ann is labelled (p1) and test (p3)" in str(error.value)
    assert "patient bob is unlabelled (p2) and test (p4)" in str(error.value) and "eve" not in str(
        error.value
    )


def test_read_cases_reads_a_large_sheet_column_by_column(tmp_path: Path) -> None:
    lines = [f"u{i},{i}.nii,,unlabelled,g{i % 7},\n" for i in range(3000)]
    lines[2500] = "u2500,2500.nii,,unlabeled,,\n"
    message = problems(tmp_path, HEADER + "".join(lines))
    assert "1 problems" in message
    assert "line 2502 (u2500): split 'unlabeled' is not one of" in message
