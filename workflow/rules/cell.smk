# One experiment of a comparison: a method and a seed, or what several of them share. compare.smk uses this file as a module
# and hands over the whole configuration.

from hstf.config import resolve_config

CONFIG = resolve_config(config)


include: "common.smk"
include: "stages.smk"
