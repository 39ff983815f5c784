# What a run shows before and after its jobs, and the file from which `hstf status` knows what it does.

import os
import platform
import time

from snakemake.cli import get_argument_parser

from hstf.experiment.last_run import RUN_FILE, LastRun
from hstf.experiment.run_arguments import lasting_arguments
from hstf.runtime.encoding import print_any_character


def jobs_to_run():
    """The jobs of the experiment that this run computes."""
    rules_of_run = {job.rule.name for job in workflow.dag.needrun_jobs(exclude_finished=False)}
    return [job for job in JOBS.all() if job.rule in rules_of_run and KEYS.state(job).reasons]


def estimate(may_measure=False):
    """Estimate what this run takes: a text, the costs and the estimate."""
    from hstf.commands.estimate import comparison_for_screen, text_for_screen  # takes a second

    on_cluster = is_on_cluster()
    cores = 8 if on_cluster else workflow.cores or 1
    files = [os.path.relpath(file) for file in config_files()]
    nodes = workflow.nodes if on_cluster else None
    text, costs, total = text_for_screen(JOBS, jobs_to_run(), cores, nodes, files, may_measure)
    if compared := jobs_of_comparison():
        text = f"{text}\n{comparison_for_screen(JOBS, costs, compared)}".strip()
    return text, costs, total


def arguments_of_run():
    """The options that start this run again in its folder; none if it was not started by its command."""
    parser = get_argument_parser()

    def targets_of(words):
        return list(parser.parse_args(words).targets)

    try:
        words = lasting_arguments(sys.argv[1:], targets_of)
    except SystemExit:  # the program has options of its own
        return []
    snakefile = os.path.relpath(workflow.main_snakefile)
    if snakefile != "Snakefile":
        words += ["--snakefile", snakefile]
    files = [os.path.relpath(file) for file in workflow.overwrite_configfiles]
    return [*words, "--configfile", *files] if files else words


def note_run(costs, total):
    """Write what the run is about to do."""
    if costs is None:
        jobs = [{"name": job.name} for job in JOBS.all() if JOBS.root(job) == LAYOUT.root]
    else:
        jobs = costs.run_jobs()
    run = LastRun(
        experiment=CONFIG.experiment,
        machine=platform.node(),
        process=os.getpid(),
        folder=str(Path.cwd()),
        started=time.strftime("%F %T"),
        is_cluster=is_on_cluster(),
        arguments=arguments_of_run(),
        jobs=jobs,
        estimate=total,
    )
    run.save(LAYOUT.root / RUN_FILE)


def estimate_text():
    """The estimate for a dry run."""
    return estimate()[0]


def jobs_of_comparison():
    """The jobs of this run that belong to each experiment of a comparison."""
    found = {}
    for job in workflow.dag.needrun_jobs(exclude_finished=False):
        for experiment in EXPERIMENTS:
            prefix = f"{experiment}_"
            if job.rule.name.startswith(prefix):
                name = job.rule.name.removeprefix(prefix)
                found.setdefault(experiment, []).append(job_of(name, job.wildcards))
    return found


def begin():
    """Show the estimate, and write what the run is about to do."""
    text, costs, total = estimate(may_measure=True)
    if text:
        print(text, file=sys.stderr)
    note_run(costs, total)
    SCREEN.follow_jobs()


def show_results():
    """Print the rounds, the path of the report, and what was exported and why."""
    from hstf.experiment.context import StageContext
    from hstf.stages.report.stage import show  # takes a second

    print_any_character()
    try:
        show(StageContext.of(CONFIG, "report"))
    except HstfError as error:
        print(error, file=sys.stderr)


SCREEN.when_up_to_date = f"The rounds and the report: hstf report --config {LAYOUT.config} --show"

if not SCREEN.hides_jobs:
    SCREEN.at_end_of_dry_run.append(estimate_text)
