# Methods and seeds side by side on the data of this experiment; only with a `compare:` section. Each is an experiment of its
# own in <output>/<experiment>/compare/, made of the same rules, and takes data and warm-up from where they are made already.

from hstf.compare.cells import experiments
from hstf.config.command import config_text
from hstf.files import write_text_if_changed

try:
    EXPERIMENTS = experiments(CONFIG)
except HstfError as error:
    raise WorkflowError(str(error)) from None

for EXPERIMENT, _settings in EXPERIMENTS.items():
    PREFIX = f"{EXPERIMENT}_"

    module:
        name:
            EXPERIMENT
        snakefile:
            "cell.smk"
        config:
            _settings.model_dump(mode="json")

    use rule * from EXPERIMENT as PREFIX*
