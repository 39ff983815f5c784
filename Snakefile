# Iterative self-training of 3D medical image segmentation: a rule file for each stage, in the order in which they run.
#
#   snakemake --cores 8                                             the demo of config/config.yaml
#   snakemake --cores 8 --configfile config/hippocampus.yaml        another experiment
#   snakemake --cores 8 --profile slurm                             on a cluster
#   snakemake --cores 8 round_1_refine                              up to a stage, or up to a stage of a round
#   snakemake compare --cores 8 --configfile config/hippocampus.yaml    methods and seeds side by side
#
# All files are written to <output>/<experiment>/; docs/reference/output-files.md describes each of them.

from snakemake.utils import min_version

min_version("9.10")


include: "workflow/rules/config.smk"
include: "workflow/rules/common.smk"


rule all:
    input:
        LAYOUT.report,
        LAYOUT.export / "model.json",
        [LAYOUT.track(number) for number in TRACKED],


include: "workflow/rules/phantom.smk"
include: "workflow/rules/stages.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/track.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/run.smk"


onstart:
    try:
        begin_run()
    except Taken as holder:
        raise WorkflowError(
            f"{holder} is running in this folder or writes the same results ({LAYOUT.root})."
            " Wait until it ends or stop it; --unlock does not help."
        )
    for message in (*override_messages(CONFIG, OVERRIDES), *control_messages(CONFIG, SHEET)):
        print(message, file=sys.stderr)
    for settings in (CONFIG, *EXPERIMENTS.values()):
        write_text_if_changed(Layout.of(settings).config, config_text(settings))
    begin()


onsuccess:
    if SCREEN.ran("report"):
        show_results()
