# The experiment of this run. A file that names its own cases stands alone; any other changes the demo.

from functools import reduce
from pathlib import Path

from hstf.config import resolve_config
from hstf.config.load import merge, read_yaml
from hstf.errors import HstfError
from hstf.reuse import check_reuse

if "cases" not in config:

    configfile: "config/config.yaml"


def read_config():
    """The configuration; `hstf config --show --config FILES` merges files in the same way."""
    on_command_line = workflow.overwrite_configfiles
    files = [*workflow.configfiles[len(on_command_line) :], *on_command_line]
    layers = [
        *(read_yaml(Path(file)) for file in files),
        workflow.config_settings.config,
    ]
    return resolve_config(reduce(merge, layers), source=", ".join(map(str, files)))


try:
    CONFIG = read_config()
    check_reuse(CONFIG)
except HstfError as error:
    raise WorkflowError(str(error)) from None

ALIKE = 1
