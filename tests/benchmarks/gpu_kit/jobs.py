"""The jobs of the workflow, as Snakemake plans them, written as steps that need no Snakemake."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from parcel import sha256
from snakemake.api import SnakemakeApi
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    Quietness,
    ResourceSettings,
)
from steps import Step

from hstf.layout import Layout

ROOT = Path(__file__).resolve().parents[3]


def planned_steps(
    files: Sequence[Path], changes: dict[str, Any], targets: Sequence[str], without: Iterable[str]
) -> dict[str, Any]:
    """``steps`` as if none were done, ``sources``: the scans and other files they start from, ``settings``:
    configurations and case sheets, and ``results``: the folder of all experiments.

    Writes the resolved configurations, as a run of Snakemake does.

    Args:
        files: configuration files, later ones over earlier ones.
        changes: keys over them, as after ``--config``.
        targets: what to make; nothing means the workflow's default.
        without: rules to leave out, such as tracking.
    """
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        flow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[Path(file) for file in files], config=changes),
            snakefile=ROOT / "Snakefile",
            workdir=Path.cwd(),
        )
        flow.dag(DAGSettings(targets=set(targets), forceall=True))
        workflow = flow._workflow  # Snakemake has no public way to the jobs
        workflow._prepare_dag(forceall=True, ignore_incomplete=True, lock_warn_only=True)
        workflow._build_dag()
        workflow._onstart(None)
        jobs = [job for level in workflow.dag.toposorted() for job in level]
        jobs = [job for job in jobs if job.shellcmd and job.rule.name not in set(without)]
        configs = [workflow.globals["CONFIG"], *workflow.globals.get("EXPERIMENTS", {}).values()]
        settings = {path for config in configs for path in (str(Layout.of(config).config), config.cases)}
        steps, sources = _steps(jobs)
        return {
            "steps": steps,
            "sources": sources,
            "settings": sorted(settings),
            "results": configs[0].output,
        }


def _steps(jobs: Sequence[Any]) -> tuple[list[Step], list[str]]:
    keys: dict[str, str] = {}
    sources: dict[str, str] = {}
    steps = []
    for job in jobs:
        inputs, outputs = [str(f) for f in job.input], [str(f) for f in job.output]
        sources.update({f: sha256(Path(f)) for f in inputs if f not in keys and f not in sources})
        content = [job.shellcmd, dict(job.params.items()), sorted(keys.get(f) or sources[f] for f in inputs)]
        key = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:20]
        keys.update(dict.fromkeys(outputs, key))
        folders = sorted({str(Path(str(f)).parent) for f in [*outputs, *job.log]})
        own = tuple(f for f in inputs if f not in sources)
        steps.append(Step(key, job.rule.name, job.shellcmd, own, tuple(outputs), tuple(folders)))
    return steps, sorted(sources)
