"""An experiment reuses the data and the warm-up of another one, if both match."""

from pathlib import Path

import pytest
from support.compare_files import configuration
from support.workspace import Workspace

from hstf.cli import main
from hstf.config.evaluate import PredictConfig
from hstf.config.load import config_text
from hstf.experiment.layout import Layout
from hstf.experiment.reuse import check_reuse, refuse_reused, refuse_unfinished
from hstf.experiment.round_tables import TEACHER
from hstf.experiment.schedule import Schedule
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text


def test_workflow_reuses_data_and_warm_up_in_a_comparison(experiment: Workspace) -> None:
    experiment.configure(compare={"methods": ["supervised", "hstf"], "seeds": [0, 1]})
    assert experiment.jobs() == {}, "a comparison adds nothing to the experiment itself"
    jobs = experiment.jobs("compare")
    done = {"check", "plan", "preprocess_shard", "warmup_member", "evaluate_table"}
    assert not done & jobs.keys(), jobs
    assert jobs["warmup_seed_1_warmup_member"] == 3
    assert not [rule for rule in jobs if "preprocess" in rule]
    supervised = [rule for rule in jobs if rule.startswith("supervised")]
    assert not [rule for rule in supervised if "labels" in rule]
    assert jobs["hstf_seed_0_student_member"] == jobs["supervised_seed_1_student_member"] == 2
    cell_jobs = experiment.jobs("compare_hstf_seed_0")
    assert not [rule for rule in cell_jobs if rule.startswith("supervised")]


def test_workflow_reuses_data_and_warm_up_of_another_experiment(experiment: Workspace) -> None:
    kept = experiment.folder / "results" / "few" / "config.yaml"
    kept.write_text((experiment.folder / "config.yaml").read_text())
    experiment.configure(experiment="next", reuse={"data": "results/few", "warmup": "results/few"})
    jobs = experiment.jobs()
    assert not {"check", "plan", "preprocess_shard", "warmup_member"} & jobs.keys(), jobs
    assert (jobs["calibrate"], jobs["student_member"], jobs["evaluate_table"]) == (1, 2, 2)
    experiment.configure(reuse={"data": "results/few"})
    jobs = experiment.jobs()
    assert (jobs["warmup_member"], jobs["evaluate_table"]) == (3, 3)
    assert "plan" not in jobs


def test_workflow_refuses_to_reuse_results_that_do_not_exist(experiment: Workspace) -> None:
    results = experiment.folder / "results" / "few"
    (results / "config.yaml").write_text((experiment.folder / "config.yaml").read_text())
    experiment.configure(experiment="next", reuse={"data": "results/few", "warmup": "results/few"})
    (results / "preprocessed" / "unlabelled_0.csv").unlink()
    message = experiment.refusal()
    assert "reuse.data: results/few has no preprocessed/unlabelled_0.csv; run" in message
    assert "run 'snakemake preprocess' with the configuration of that experiment first" in message
    assert "MissingInputException" not in message


def test_refuse_unfinished_names_the_target_that_must_run_first(tmp_path: Path) -> None:
    base = configuration(tmp_path)
    layout = Layout.of(base)
    root = str(layout.root)
    reusing = configuration(tmp_path, experiment="next", reuse={"data": root, "warmup": root})
    refuse_unfinished(base)
    with pytest.raises(HstfError) as raised:
        refuse_unfinished(reusing)
    message = str(raised.value)
    assert f"reuse.data: {root} has no plan.json, preprocessed/labelled_0.csv, " in message
    assert f"reuse.warmup: {root} has no round_0/model/" in message
    assert "run 'snakemake warmup' with the configuration" in message
    for file in [
        layout.plan,
        *(layout.preprocessed_table(f"{kind}_0") for kind in ("labelled", "unlabelled")),
    ]:
        write_text(file, "")
    for member in Schedule.of(reusing).trained(0):
        write_text(layout.weights(0, member), "")
    refuse_unfinished(reusing)


def test_refuse_unfinished_needs_no_unlabelled_scans_for_supervised(tmp_path: Path) -> None:
    layout = Layout.of(configuration(tmp_path))
    for file in (layout.plan, layout.preprocessed_table("labelled_0")):
        write_text(file, "")
    reuse = {"data": str(layout.root)}
    refuse_unfinished(configuration(tmp_path, experiment="next", method="supervised", reuse=reuse))
    with pytest.raises(HstfError, match=r"has no preprocessed/unlabelled_0\.csv"):
        refuse_unfinished(configuration(tmp_path, experiment="next", reuse=reuse))


def test_reuse_of_a_warm_up_needs_its_data(tmp_path: Path) -> None:
    with pytest.raises(HstfError, match=r"reuse.warmup needs reuse.data"):
        configuration(tmp_path, reuse={"warmup": "results/few"})


def test_check_reuse_refuses_experiments_that_do_not_match(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    write_text(Layout.of(config).config, config_text(config))
    root = str(tmp_path / "results" / "base")
    reusing = configuration(tmp_path, experiment="next", reuse={"data": root, "warmup": root})
    check_reuse(reusing)
    refuse_reused(config, "plan")
    with pytest.raises(HstfError, match=f"warmup: this experiment reuses the results of {root}"):
        refuse_reused(reusing, "warmup")
    with pytest.raises(HstfError, match=r"(?s)reuse.data: labels is .*reuse.warmup: labels is"):
        check_reuse(reusing.model_copy(update={"labels": {"background": 0, "liver": 1}}))
    swapped = {"background": 0, "posterior": 2, "anterior": 1}
    assert swapped == config.labels, "only the order of the classes is different"
    with pytest.raises(HstfError, match=r"reuse.data: labels is"):
        check_reuse(reusing.model_copy(update={"labels": swapped}))
    with pytest.raises(HstfError, match=r"reuse.warmup: warmup.folds is 3 in .* and 2 here"):
        check_reuse(
            reusing.model_copy(update={"warmup": config.warmup.model_copy(update={"folds": 2})})
        )
    with pytest.raises(HstfError, match=r"reuse.warmup: predict.clean is True in .* and False"):
        check_reuse(reusing.model_copy(update={"predict": PredictConfig(clean=False)}))
    with pytest.raises(HstfError, match="is not an experiment"):
        check_reuse(configuration(tmp_path, reuse={"data": str(tmp_path / "nowhere")}))


def test_evaluate_refuses_to_score_a_reused_warm_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(tmp_path)
    write_text(Layout.of(config).config, config_text(config))
    root = str(Layout.of(config).root)
    reusing = configuration(tmp_path, experiment="next", reuse={"data": root, "warmup": root})
    write_text(tmp_path / "next.yaml", config_text(reusing))
    command = ["evaluate", "--config", str(tmp_path / "next.yaml"), "--round", "0"]
    for options in ([], ["--shard", "test_0"], ["--scales"]):
        assert main([*command, *options]) == 1
        assert f"evaluate: this experiment reuses the results of {root}" in capsys.readouterr().err


def test_check_reuse_refuses_cases_that_were_not_preprocessed(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    write_text(Layout.of(config).config, config_text(config))
    root = str(Layout.of(config).root)
    reusing = configuration(tmp_path, experiment="next", reuse={"data": root})
    check_reuse(reusing)
    sheet = Path(reusing.cases)
    longer = tmp_path / "longer.csv"
    rows = sheet.read_text().rstrip("\n").splitlines()
    unlabelled = next(row for row in rows if ",unlabelled" in row)
    name = unlabelled.split(",")[0]
    write_text(longer, "\n".join([*rows, unlabelled.replace(name, "added")]) + "\n")
    with pytest.raises(HstfError, match="has not preprocessed added; leave 'reuse:' out"):
        check_reuse(reusing.model_copy(update={"cases": str(longer)}))


def test_check_reuse_refuses_training_on_test_patients(tmp_path: Path) -> None:
    sheets = {
        "first": "a,labelled,ann;b,labelled,bob;c,labelled,cid;u,unlabelled,uma;t,test,tom",
        "second": "a,labelled,ann;b,labelled,bob;c,unlabelled,cid;u,test,uma;t,test,tom",
    }
    for name, rows in sheets.items():
        lines = ["case_id,image,label,split,group"]
        for row in rows.split(";"):
            case_id, rest = row.split(",", 1)
            lines.append(f"{case_id},{case_id}.nii,{case_id}_l.nii,{rest}")
        write_text(tmp_path / f"{name}.csv", "\n".join(lines))
    first = configuration(tmp_path, cases=str(tmp_path / "first.csv"))
    write_text(Layout.of(first).config, config_text(first))
    root = str(Layout.of(first).root)
    own = {"experiment": "next", "cases": str(tmp_path / "second.csv")}
    message = r"reuse.data: uma is a validation or test patient here and a training patient in"
    with pytest.raises(HstfError, match=message):
        check_reuse(configuration(tmp_path, **own, reuse={"data": root}))
    message = (
        r"(?s)uma is a validation or test patient.*reuse.warmup: .* other labelled cases .*\(c\)"
    )
    with pytest.raises(HstfError, match=message):
        check_reuse(configuration(tmp_path, **own, reuse={"data": root, "warmup": root}))


def test_check_reuse_reads_the_cases_of_a_warm_up_from_its_tables(tmp_path: Path) -> None:
    """The case sheet, which both experiments use, was edited after the training."""
    config = configuration(tmp_path)
    layout = Layout.of(config)
    write_text(layout.config, config_text(config))
    reusing = configuration(
        tmp_path, experiment="next", reuse={"data": str(layout.root), "warmup": str(layout.root)}
    )
    for fold, names in enumerate((["case_000"], ["case_001", "case_002"], ["case_006"])):
        rows = [{"case_id": name} for name in names]
        TEACHER.write(layout.out_of_fold_table(f"fold_{fold}"), rows)
    with pytest.raises(HstfError, match=r"other labelled cases than this experiment \(case_006\)"):
        check_reuse(reusing)
