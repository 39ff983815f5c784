# Methods and seeds on the data of this experiment, of the `compare:` section or as the control of a run
# (`evaluate.control`). Each is an experiment of its own in <output>/<experiment>/compare/ with the same rules,
# and reuses data and warm-up.

from hstf.experiment.comparison import cells_of, control_messages, control_of, experiments
from hstf.config.load import config_text
from hstf.runtime.files import write_text_if_changed

try:
    CELLS, EXPERIMENTS = cells_of(CONFIG), experiments(CONFIG, control_of(CONFIG, SHEET))
except HstfError as error:
    raise WorkflowError(str(error)) from None

for EXPERIMENT, _settings in EXPERIMENTS.items():
    PREFIX = f"{EXPERIMENT}_"

    module:
        name: EXPERIMENT
        snakefile:
            "cell.smk"
        config:
            _settings.model_dump(mode="json")

    use rule * from EXPERIMENT as PREFIX*


for _cell in CELLS:

    rule:
        name:
            f"compare_{_cell.name}"
        input:
            _cell.results,


if CONFIG.compare is not None:

    rule compare:
        input:
            compared,
            key=key("compare"),
        output:
            cells=LAYOUT.compare / "cells.csv",
            table=report(
                LAYOUT.compare / "table.csv",
                category="Comparison",
                caption="../report/compare.rst",
            ),
            markdown=LAYOUT.compare / "table.md",
            html=report(
                LAYOUT.compare / "compare.html",
                category="Comparison",
                caption="../report/compare.rst",
            ),
        log:
            LOGS / "compare.log",
        benchmark:
            BENCHMARKS / "compare.tsv"
        threads: 1
        resources:
            mem_mb=memory(4000),
            runtime=60,
        params:
            config=str(LAYOUT.config),
        message:
            "comparing the methods"
        shell:
            "hstf compare --config {params.config:q} > {log:q} 2>&1"
