# One experiment of a comparison: a method with a seed, or the data or warm-up that several of them use.
# compare.smk uses this file as a module and passes the whole configuration.

from hstf.config.load import resolve_config
from hstf.experiment.comparison import scaled_cases

CONFIG = resolve_config(config)
# Without a section `compare:` this is the control of the experiment.
ALIKE = len(CONFIG.compare.methods) * len(CONFIG.compare.seeds) if CONFIG.compare else 1


include: "common.smk"
include: "stages.smk"
# Only on request: the target is <method>_seed_<seed>_export.
include: "export.smk"


if CONFIG.compare is not None:
    SCALED = scaled_cases(CONFIG.compare, SHEET.of(Split.TEST))

    include: "scales.smk"
