"""What a run of the workflow shows on the screen."""

from pathlib import Path

from support.fast_workflow import shared_server
from support.workspace import ROOT, Workspace

from hstf.experiment.last_run import RUN_FILE, LastRun

NOISE = ("CalledProcessError", "Snakemake version", "Reason:", "input: ", "Select jobs")


def output_of_check(experiment: Workspace, *arguments: str) -> str:
    """Run the stage ``check``, which must fail, because the scans are a few bytes."""
    words = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml", "--cores", "2"]
    (experiment.folder / "results" / "few" / "check.csv").unlink(missing_ok=True)
    done = shared_server().snakemake(experiment.folder, *words, *arguments, "check")
    assert done.returncode == 1
    return done.stdout


def test_failed_job_ends_with_its_own_message(experiment: Workspace) -> None:
    """Not with the command of a shell and the paths of all scans."""
    text = output_of_check(experiment)
    assert "Error in rule check (checking all scans):\n    hstf check: " in text
    assert "case_000" in text
    assert "The same as a table: results/few/check_failed.csv" in text
    assert text.rstrip().endswith("start the same command again: it continues.")
    assert not [noise for noise in NOISE if noise in text]


def test_run_notes_the_options_with_which_it_starts_again(experiment: Workspace) -> None:
    output_of_check(experiment, "--retries", "0")
    run = LastRun.load(experiment.folder / "results" / "few" / RUN_FILE)
    words = list(run.arguments)
    snakefile = words.index("--snakefile")
    assert (experiment.folder / words[snakefile + 1]).resolve() == ROOT / "Snakefile"
    del words[snakefile : snakefile + 2]
    assert words == ["--cores", "2", "--retries", "0", "--configfile", "config.yaml"]


def test_dry_run_advises_the_files_in_the_order_of_the_command(
    finished: Workspace, tmp_path: Path
) -> None:
    """A later file overrides the ones before it, among them the name of the experiment."""
    experiment = finished.copy_to(tmp_path)
    (experiment.folder / "a_longer.yaml").write_text("student: {steps: 3000000}\n")
    both = ("--configfile", "config.yaml", "a_longer.yaml")
    done = Workspace(experiment.folder, configfile=None).snakemake(*both, "--dry-run")
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    assert "snakemake --cores 2 --configfile config.yaml a_longer.yaml " in shown


def test_verbose_run_shows_all_messages_of_snakemake(experiment: Workspace) -> None:
    text = output_of_check(experiment, "--verbose")
    assert "CalledProcessError" in text
    assert "Snakemake version" in text
