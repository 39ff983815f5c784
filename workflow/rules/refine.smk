# Predictions become pseudo-labels with voxel weights and a verdict, in native space, to inspect and correct.


rule refine_shard:
    input:
        calibration=calibration_of_round,
        cases=LAYOUT.preprocessed_table("{shard}"),
        teacher=LAYOUT.teacher_table("{round}", "{shard}"),
        lesions=lesion_bounds,
        external=external_of_round,
        previous=previous_labels,
        key=key("refine_shard"),
    output:
        LAYOUT.pseudo_labels_table("{round}", "{shard}"),
    log:
        LOGS / "refine" / "round_{round}_{shard}.log",
    benchmark:
        BENCHMARKS / "refine" / "round_{round}_{shard}.tsv"
    threads: side_by_side(len(UNLABELLED))
    resources:
        mem_mb=memory(16000),
        runtime=480,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: refining {wildcards.shard}"
    shell:
        "hstf refine --config {params.config:q} --round {wildcards.round} --shard {wildcards.shard} > {log:q} 2>&1"


rule refine_table:
    input:
        [LAYOUT.pseudo_labels_table("{round}", shard) for shard in UNLABELLED],
        key=key("refine_table"),
    output:
        [LAYOUT.lesions("{round}")] if CONFIG.lesions else [],
        table=report(
            LAYOUT.refine("{round}"),
            category="Pseudo-labels",
            caption="../report/refine.rst",
        ),
    log:
        LOGS / "refine" / "round_{round}.log",
    benchmark:
        BENCHMARKS / "refine" / "round_{round}.tsv"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: table of all pseudo-labels"
    shell:
        "hstf refine --config {params.config:q} --round {wildcards.round} > {log:q} 2>&1"
