"""Files, case sheets and names cannot run code, lead out of a folder, or use unlimited memory."""

import ast
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stages import export, overrides_in_force
from support.tiny_model import tiny_experiment, write_scan
from support.workspace import ROOT, SPLITS, Workspace, write_sheet

from hstf.commands.predict import predict
from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.config.phantom import PhantomConfig
from hstf.method.exported_model import write_digests
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file, write_csv, write_json, write_text
from hstf.runtime.shards import CaseWork, read_shard, run_shard
from hstf.runtime.tables import Column, Table

SOURCES = sorted((ROOT / "hstf").rglob("*.py"))

COPIES = Table(
    "copies",
    "copies.csv",
    "A copied case.",
    [
        Column("case_id", "text", "Case."),
        Column("files", "list", "Files of the case."),
        Column("sha256", "list", "SHA-256 of each file."),
    ],
)


# ---- code


def calls() -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    """Yield place, function and named arguments of each call in the package."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), keywords


def imports() -> Iterator[tuple[str, str]]:
    """Yield place and name of each module that the package imports."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", name


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_package_loads_weights_and_arrays_without_pickle() -> None:
    loads = [
        (where, name, keywords)
        for where, name, keywords in calls()
        if name in ("torch.load", "np.load")
    ]
    assert {name for _, name, _ in loads} == {"torch.load", "np.load"}
    for where, name, keywords in loads:
        if name == "torch.load":
            assert is_constant(keywords.get("weights_only"), True), where
        else:
            assert is_constant(keywords.get("allow_pickle"), False), where


def test_package_neither_evaluates_data_as_code_nor_starts_a_shell() -> None:
    refused = {
        "eval",
        "exec",
        "compile",
        "__import__",
        "os.system",
        "os.popen",
        "yaml.load",
        "yaml.unsafe_load",
    }
    assert [where for where, name, _ in calls() if name in refused] == []
    assert [where for where, _, keywords in calls() if "shell" in keywords] == []
    modules = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    assert [where for where, name in imports() if name.partition(".")[0] in modules] == []


def test_shell_commands_of_rules_quote_values_of_the_user() -> None:
    plain = {
        "{wildcards.round}",
        "{wildcards.shard}",
        "{wildcards.member}",
        "{params.options}",
        "{resources.launch}",
        "{params.large_pages}",
    }
    found = 0
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for line in re.findall(r'^ +shell:\n +"(.*)"$', path.read_text(), re.MULTILINE):
            fields = set(re.findall(r"\{[^}]*\}", line))
            assert all(field in plain or field.endswith(":q}") for field in fields), (
                f"{path.name}: {line}"
            )
            found += 1
    assert found > 15


# ---- names and paths


@pytest.mark.parametrize("case_id", ["; touch pwned", "../x", "$(touch pwned)", "{shard}", "a\nb"])
def test_workflow_refuses_a_case_id_that_is_not_a_plain_name(tmp_path: Path, case_id: str) -> None:
    row = {"case_id": case_id, "image": "a.nii", "split": "unlabelled"}
    write_csv(tmp_path / "cases.csv", [row], list(row))
    workspace = Workspace(tmp_path)
    workspace.configure(cases="cases.csv")
    assert "must be letters, digits" in workspace.refusal()
    assert not (tmp_path / "pwned").exists()


def test_workflow_quotes_names_of_files_and_folders(tmp_path: Path) -> None:
    write_sheet(tmp_path, SPLITS, "{} it's; touch pwned.nii.gz", "{}_label.nii.gz")
    for line in (tmp_path / "cases.csv").read_text().splitlines()[1:]:
        for name in line.split(",")[1:3]:
            (tmp_path / name).touch()
    workspace = Workspace(tmp_path)
    workspace.configure(cases="cases.csv", output="re'sults; touch pwned", shard_size=5)
    jobs = workspace.jobs()
    assert jobs["preprocess_shard"] == 2
    command = workspace.snakemake("--dry-run", "--printshellcmds", "check").stdout
    assert """hstf check --config 're'"'"'sults; touch pwned/demo/config.yaml'""" in command
    assert not (tmp_path / "pwned").exists()


def test_workflow_refuses_braces_which_would_be_wildcards(tmp_path: Path) -> None:
    write_sheet(tmp_path, SPLITS, "{}_{{x}}.nii.gz", "{}_label.nii.gz")
    workspace = Workspace(tmp_path)
    workspace.configure(cases="cases.csv")
    assert "line 2 (case_000): 'case_000_{x}.nii.gz' has a brace" in workspace.refusal()
    workspace.configure(output="results{x}")
    assert "output: String should match pattern" in workspace.refusal()


def test_phantom_options_quote_the_folder() -> None:
    assert (
        PhantomConfig(folder="x; touch pwned")
        .options()
        .startswith("--output 'x; touch pwned' --size")
    )


def test_overrides_in_force_refuses_links_out_of_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    folder = tmp_path / "overrides"
    write_text(outside / "label.nii.gz", "secret")
    write_text(outside / "round_2" / "b.nii.gz", "secret")
    (folder / "round_1").mkdir(parents=True)
    (folder / "round_1" / "a.nii.gz").symlink_to(outside / "label.nii.gz")
    (folder / "round_2").symlink_to(outside / "round_2")
    (folder / "decisions.csv").symlink_to(outside / "label.nii.gz")
    config = Config(overrides=str(folder))
    with pytest.raises(HstfError) as caught:
        overrides_in_force(config, 2, {"a", "b"})
    message = str(caught.value)
    assert (
        message.count("a link to a place outside the overrides folder; put the file itself there")
        == 3
    )
    assert "secret" not in message


def test_overrides_in_force_follows_links_within_the_folder_and_to_it(tmp_path: Path) -> None:
    write_text(tmp_path / "shared" / "round_1" / "a.nii.gz", "x")
    (tmp_path / "shared" / "round_1" / "b.nii.gz").symlink_to("a.nii.gz")
    (tmp_path / "overrides").symlink_to("shared")
    assert set(
        overrides_in_force(Config(overrides=str(tmp_path / "overrides")), 1, {"a", "b"})
    ) == {"a", "b"}


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "a/../../outside.txt"])
def test_read_shard_refuses_files_out_of_the_folder_of_the_table(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / "outside.txt", "x")
    row = {"case_id": "a", "files": [name], "sha256": [sha256_file(tmp_path / "outside.txt")]}
    table = tmp_path / "teacher" / "unlabelled_0.csv"
    COPIES.write(table, [row])
    with pytest.raises(HstfError, match="its row was edited"):
        read_shard(COPIES, table, "a")
    write_json(table.parent / ".records" / "a.json", {"key": "x", "row": row})
    work = CaseWork(
        "a", {}, [table.parent / "a.txt"], lambda: write_text(table.parent / "a.txt", "y") or {}
    )
    assert run_shard(COPIES, table, {}, [work], "copy") == 1, "the invalid record was used"


def test_predict_replaces_a_link_and_does_not_follow_it(tmp_path: Path) -> None:
    model = export(tiny_experiment(tmp_path))
    scan = write_scan(tmp_path / "in" / "scan.nii.gz")
    write_text(tmp_path / "precious.nii.gz", "precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scan.nii.gz").symlink_to(tmp_path / "precious.nii.gz")
    predict(model, scan, tmp_path / "out", "cpu", existing="overwrite")
    assert (tmp_path / "precious.nii.gz").read_text() == "precious"
    assert not (tmp_path / "out" / "scan.nii.gz").is_symlink()


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b"])
def test_predict_refuses_weights_out_of_the_folder_of_the_model(tmp_path: Path, name: str) -> None:
    model = export(tiny_experiment(tmp_path))
    content = json.loads((model / "model.json").read_text())
    content["members"][0]["name"] = name
    write_json(model / "model.json", content)
    write_digests(model)
    with pytest.raises(HstfError, match=r"members\.0\.name: String should match pattern"):
        predict(model, write_scan(tmp_path / "scan.nii.gz"), tmp_path / "out", "cpu")


# ---- configuration files


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{p: *{old}, q: *{old}, r: *{old}, s: *{old}}}\n"
    for old, new in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases"),
        (MERGED, "aliases"),
        ("rounds: " + "[" * 100_000, "levels deep"),
        ("{a: " * 50_000, "levels deep"),
        ("- " * 100_000, "levels deep"),
        ("seed: " + "9" * 5000, "not valid YAML"),
        ("seed: 2026-99-99", "should be a valid integer"),
        ("seed: !!python/object/apply:os.system ['touch pwned']", "not valid YAML"),
        ("# " + "x" * 2_000_000, "bytes"),
        ("experiment: \x00", "not valid YAML"),
    ],
    ids=[
        "bomb",
        "merged",
        "deep list",
        "deep map",
        "deep block",
        "number",
        "date",
        "python",
        "large",
        "nul",
    ],
)
def test_load_config_refuses_harmful_yaml_quickly(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    start = time.monotonic()
    with pytest.raises(HstfError, match=words):
        load_config(path)
    assert time.monotonic() - start < 5


def test_workflow_refuses_harmful_yaml(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / "config.yaml").write_text(f"cases: cases.csv\n{BOMB}")
    assert "uses YAML aliases" in workspace.refusal()


@settings(deadline=None, max_examples=200)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
    )
)
def test_load_config_reads_any_bytes_or_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        load_config(path)
    except HstfError as error:
        assert str(path) in str(error)
