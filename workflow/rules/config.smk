# The experiment of this run. A file with its own `cases` is complete; any other file changes the demo.

import sys
from functools import reduce
from pathlib import Path

from hstf.config.load import resolve_config
from hstf.config.merge import merge
from hstf.config.yaml_files import read_yaml
from hstf.runtime.errors import HstfError
from hstf.runtime.locks import Taken
from hstf.runtime.run_lock import active_run, lock_results, lock_run
from hstf.runtime.screen import install
from hstf.experiment.layout import Layout
from hstf.experiment.reuse import check_reuse, refuse_unfinished

if "cases" not in config:

    configfile: "config/config.yaml"


def config_files():
    """The files of the configuration. A later one overrides the ones before it."""
    on_command_line = workflow.overwrite_configfiles
    return [*workflow.configfiles[len(on_command_line) :], *on_command_line]


def read_config():
    """The configuration. `hstf config --show --config FILES` merges files in the same way."""
    files = config_files()
    layers = [
        *(read_yaml(Path(file)) for file in files),
        workflow.config_settings.config,
    ]
    return resolve_config(reduce(merge, layers), source=", ".join(map(str, files)))


try:
    CONFIG = read_config()
    check_reuse(CONFIG)
    if workflow.is_main_process:
        refuse_unfinished(CONFIG)
except HstfError as error:
    raise WorkflowError(str(error)) from None

ALIKE = 1
SCREEN = install(workflow)


def begin_run():
    """Lock the folder. Snakemake's own lock outlives a killed run; this one does not.

    A dry run holds no lock: it would stop a run that somebody starts at the same time.
    """
    if not workflow.is_main_process:
        return
    is_run = not workflow.output_settings.dryrun
    message = lock_run(Path(".snakemake"), stays=is_run)
    if message:
        print(f"hstf: {message}", file=sys.stderr)
    root = Layout.of(CONFIG).root
    if is_run:
        lock_results(root)
    elif holder := active_run(root):
        raise Taken(holder)


try:
    begin_run()
except Taken as taken:  # a dry run may continue
    print(f"hstf: {taken} is running in this folder or writes these results.", file=sys.stderr)
