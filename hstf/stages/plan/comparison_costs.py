"""What the experiments of a comparison take, or the control of an experiment.

They are experiments of their own, which reuse data and warm-ups. The estimate of an experiment does
not contain them.
"""

from collections.abc import Mapping, Sequence

from hstf.experiment.comparison import control_of, experiments
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.stages.plan.cost_basis import estimated, read_headers
from hstf.stages.plan.costs import Machine


def compared_jobs(jobs: Jobs) -> dict[str, Jobs]:
    """Return the jobs of each experiment of a comparison, or of the control, by its name.

    Args:
        jobs: the jobs of the experiment with the section ``compare:`` or with ``evaluate.control``.
    """
    config = jobs.config
    found = {}
    for name, other in experiments(config, control_of(config, jobs.sheet)).items():
        # With the withheld labels the unlabelled cases are labelled ones.
        has_same_cases = other.withheld_labels == config.withheld_labels
        found[name] = Jobs(other, jobs.sheet if has_same_cases else None)
    return found


def comparison_seconds(
    jobs: Jobs, machine: Machine, to_run: Mapping[str, Sequence[Job]] | None = None
) -> float | None:
    """Return the time of the experiments of a comparison, one after the other.

    Args:
        jobs: the jobs of the experiment with the comparison or the control.
        machine: the machine that computes.
        to_run: the jobs that will run of each experiment; None means all jobs.

    Returns:
        The time (s); 0 without a comparison and without a control; None if one of the experiments
        cannot be estimated.
    """
    headers = read_headers(jobs.config, jobs.sheet)
    total = 0.0
    for name, others in compared_jobs(jobs).items():
        wanted = others.all() if to_run is None else to_run.get(name, ())
        if wanted:
            found = estimated(others, machine, to_run=wanted, headers=headers)
            if found is None:
                return None
            total += found[1].seconds
    return total
