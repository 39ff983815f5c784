"""``manifest.json`` and the published schemas, on a finished experiment."""

import json
import os
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import yaml
from support.evaluation_files import evaluate_shard, summarise_round
from support.finished_experiment import TEST, finish_experiment
from support.workspace import ROOT

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.runtime.files import write_text

SCHEMAS = ROOT / "docs" / "reference" / "schemas"
DOCUMENTS = {
    "manifest": "manifest.json",
    "fingerprint": "fingerprint.json",
    "plan": "plan.json",
    "geometry": "preprocessed/*/geometry.json",
    "calibration": "round_0/calibration.json",
    "agreement": "round_1/teacher/*/agreement.json",
    "evaluation_summary": "round_1/evaluation/summary.json",
    "case_scores": "round_1/evaluation/scores/*.json",
    "exported_model": "export/model.json",
    "provenance": "provenance.json",
}
TABLES = {
    "rounds": "rounds.csv",
    "check": "check.csv",
    "refine": "round_1/refine.csv",
    "labels": "round_1/labels.csv",
    "evaluation_cases": "round_1/evaluation/cases.csv",
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A finished experiment with its report, and its folder."""
    folder = tmp_path_factory.mktemp("reported")
    before = Path.cwd()
    os.chdir(folder)
    try:
        config = finish_experiment(folder)
        evaluate_shard(config, 0, TEST)
        summarise_round(config, 0)
        path = Layout.of(config).config
        write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        assert main(["report", "--config", str(path)]) == 0
    finally:
        os.chdir(before)
    return config, folder / Layout.of(config).root


def test_manifest_names_files_and_scores(experiment: tuple[Config, Path]) -> None:
    config, root = experiment
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["classes"] == dict(config.labels)
    assert manifest["cases"] == {"labelled": 4, "unlabelled": 3, "validation": 0, "test": 2}
    rounds = pd.read_csv(root / "rounds.csv")
    assert [entry["round"] for entry in manifest["rounds"]] == list(rounds["round"])
    last = manifest["rounds"][-1]
    assert last["dice"] == pytest.approx(rounds["dice"].iloc[-1])
    assert list(last["structures"]) == list(config.structures)
    paths = [*manifest["files"].values(), *last["tables"].values(), *last["weights"].values()]
    assert [path for path in paths if not (root / path).is_file()] == []
    assert manifest["export"]["round"] == 1
    assert (root / manifest["export"]["folder"] / "model.json").is_file()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_agrees_with_its_schema(experiment: tuple[Config, Path], name: str) -> None:
    _, root = experiment
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    paths = sorted(root.glob(DOCUMENTS[name]))
    assert paths
    for path in paths:
        jsonschema.validate(json.loads(path.read_text()), schema)


@pytest.mark.parametrize("name", TABLES)
def test_table_has_the_columns_of_its_schema(experiment: tuple[Config, Path], name: str) -> None:
    config, root = experiment
    schema = json.loads((SCHEMAS / f"{name}.table.json").read_text())
    names = [field["name"] for field in schema["fields"]]
    known = set(names)
    for structure in config.structures:
        known |= {name.replace("<structure>", structure) for name in names}
    assert set(pd.read_csv(root / TABLES[name]).columns) <= known
