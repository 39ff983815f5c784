# Iterative self-training of 3D medical image segmentation: a rule file for each stage, in the order in which they run.
#
#   snakemake --cores 8                                             the demo of config/config.yaml
#   snakemake --cores 8 --configfile config/hippocampus.yaml        another experiment
#   snakemake --cores 8 --profile slurm                             on a cluster
#   snakemake --cores 8 round_1_refine                              up to a stage, or up to a stage of a round
#
# hstf writes what happens where into <output>/<experiment>/; README.md explains each file.

from snakemake.utils import min_version

min_version("9.10")


# A file that names its own cases stands alone; any other changes the demo.
if "cases" not in config:

    configfile: "config/config.yaml"


# Built from envs/hstf.def; only `--software-deployment-method apptainer` uses it.
container: "envs/hstf.sif"


wildcard_constraints:
    round=r"[1-9]\d*",
    shard=r"(labelled|unlabelled|test)_\d+",
    member=r"(fold|seed)_\d+",


include: "workflow/rules/common.smk"


rule all:
    input:
        LAYOUT.report,
        LAYOUT.export / "model.json",
        [LAYOUT.track(number) for number in TRACKED],


include: "workflow/rules/phantom.smk"
include: "workflow/rules/check.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/preprocess.smk"
include: "workflow/rules/warmup.smk"
include: "workflow/rules/calibrate.smk"
include: "workflow/rules/teacher.smk"
include: "workflow/rules/refine.smk"
include: "workflow/rules/labels.smk"
include: "workflow/rules/student.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/track.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/targets.smk"


onstart:
    write_text_if_changed(LAYOUT.config, config_text(CONFIG))
