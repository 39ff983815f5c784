# Models of others predict the labelled cases, on which their weights are measured, and the unlabelled ones.

EXTERNAL_GPU = GPU if any(CONFIG.teacher.external[name].gpu for name in JOBS.external) else 0


rule external_shard:
    input:
        check=LAYOUT.check,
        cases=LAYOUT.preprocessed_table("{shard}"),
        earlier=before_external,
        key=key("external_shard"),
    output:
        [LAYOUT.external_table(name, "{shard}") for name in JOBS.external],
    log:
        LOGS / "external" / "{shard}.log",
    benchmark:
        BENCHMARKS / "external" / "{shard}.tsv"
    threads: side_by_side(len(UNLABELLED), EXTERNAL_GPU)
    resources:
        mem_mb=memory(16000),
        runtime=1440,
        gpu=EXTERNAL_GPU,
    params:
        config=str(LAYOUT.config),
    message:
        "external teachers predict {wildcards.shard}"
    shell:
        "hstf external --config {params.config:q} --shard {wildcards.shard} > {log:q} 2>&1"


rule external_weights:
    input:
        plan=LAYOUT.plan,
        cases=[LAYOUT.preprocessed_table(shard) for shard in LABELLED],
        out_of_fold=[LAYOUT.out_of_fold_table(fold) for fold in SCHEDULE.held_out],
        external=[
            LAYOUT.external_table(name, shard) for name in JOBS.external for shard in LABELLED
        ],
        key=key("external_weights"),
    output:
        LAYOUT.external_weights,
    log:
        LOGS / "external.log",
    benchmark:
        BENCHMARKS / "external.tsv"
    threads: side_by_side(1)
    resources:
        mem_mb=memory(16000),
        runtime=240,
    params:
        config=str(LAYOUT.config),
    message:
        "measuring the external teachers on the labelled cases"
    shell:
        "hstf external --config {params.config:q} > {log:q} 2>&1"


if JOBS.prompted:

    rule external_prompted_shard:
        input:
            check=LAYOUT.check,
            cases=LAYOUT.preprocessed_table("{shard}"),
            weights=LAYOUT.external_weights,
            teacher=LAYOUT.teacher_table("{round}", "{shard}"),
            key=key("external_prompted_shard"),
        output:
            [LAYOUT.external_table(name, "{shard}", "{round}") for name in JOBS.prompted],
        log:
            LOGS / "external" / "round_{round}_{shard}.log",
        benchmark:
            BENCHMARKS / "external" / "round_{round}_{shard}.tsv"
        threads: side_by_side(len(UNLABELLED), EXTERNAL_GPU)
        resources:
            mem_mb=memory(16000),
            runtime=1440,
            gpu=EXTERNAL_GPU,
        params:
            config=str(LAYOUT.config),
        message:
            "round {wildcards.round}: external teachers correct {wildcards.shard}"
        shell:
            "hstf external --config {params.config:q} --round {wildcards.round} --shard {wildcards.shard} > {log:q} 2>&1"
