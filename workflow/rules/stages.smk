# The stages of an experiment in the order in which they run, without the stages that `reuse:` replaces.

if CONFIG.reuse.data is None:

    include: "check.smk"
    include: "plan.smk"
    include: "preprocess.smk"


if CONFIG.reuse.warmup is None and CONFIG.pretrain.is_on:

    include: "pretrain.smk"


if CONFIG.reuse.warmup is None:

    include: "warmup.smk"
    include: "out_of_fold.smk"


if JOBS.external:

    include: "external.smk"


include: "calibrate.smk"
include: "monitor.smk"
include: "teacher.smk"
include: "lesions.smk"
include: "refine.smk"
include: "labels.smk"
include: "student.smk"
include: "evaluate.smk"
