# The previous round's ensemble predicts the unlabelled cases and estimates its uncertainty.


rule teacher_shard:
    input:
        plan=LAYOUT.plan,
        models=previous_weights,
        cases=LAYOUT.preprocessed_table("{shard}"),
        sound=ancient(monitored),  # stops a run after a collapse, and changes no result
        key=key("teacher_shard"),
    output:
        LAYOUT.teacher_table("{round}", "{shard}"),
    log:
        LOGS / "teacher" / "round_{round}_{shard}.log",
    benchmark:
        BENCHMARKS / "teacher" / "round_{round}_{shard}.tsv"
    threads: side_by_side(len(UNLABELLED), GPU)
    resources:
        mem_mb=memory(16000),
        runtime=720,
        gpu=GPU,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: teacher predicts {wildcards.shard}"
    shell:
        "hstf teacher --config {params.config:q} --round {wildcards.round} --shard {wildcards.shard} > {log:q} 2>&1"
