"""Print the jobs that Snakemake makes of the rules, as JSON: their inputs, outputs and logs."""

import json
import sys
from pathlib import Path

from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

ROOT = Path(__file__).resolve().parents[2]

with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    workflow = api.workflow(
        resource_settings=ResourceSettings(cores=1),
        config_settings=ConfigSettings(configfiles=[Path("config.yaml")]),
        snakefile=ROOT / "Snakefile",
        workdir=Path(),
    )
    workflow.dag().printrulegraph()  # builds the graph
    jobs = []
    for job in workflow._workflow.dag.jobs:
        jobs.append(
            {
                "inputs": list(map(str, job.input)),
                "outputs": list(map(str, job.output)),
                "logs": list(map(str, job.log)),
                "benchmark": str(job.benchmark),
            }
        )
    print(json.dumps(jobs), file=sys.stderr)
