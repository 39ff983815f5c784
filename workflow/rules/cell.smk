# One experiment of a comparison: a method with a seed, or the data or warm-up that several of them use.
# compare.smk uses this file as a module and passes the whole configuration.

from hstf.config.load import resolve_config
from hstf.experiment.comparison import scaled_cases

CONFIG = resolve_config(config)
ALIKE = len(CONFIG.compare.methods) * len(CONFIG.compare.seeds)


include: "common.smk"
include: "stages.smk"


SCALED = scaled_cases(CONFIG.compare, SHEET.of(Split.TEST))


include: "scales.smk"
