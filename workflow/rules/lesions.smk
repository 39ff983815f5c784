# All lesions that the teacher predicts in a round are ranked: from which probability are they kept?


rule lesions_round:
    input:
        calibration=calibration_of_round,
        cases=[LAYOUT.preprocessed_table(shard) for shard in UNLABELLED],
        teacher=[LAYOUT.teacher_table("{round}", shard) for shard in UNLABELLED],
        external=external_of_all,
        key=key("lesions_round"),
    output:
        LAYOUT.lesion_bounds("{round}"),
    log:
        LOGS / "lesions" / "round_{round}.log",
    benchmark:
        BENCHMARKS / "lesions" / "round_{round}.tsv"
    threads: side_by_side(1)
    resources:
        mem_mb=memory(16000),
        runtime=240,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: ranking the lesions"
    shell:
        "hstf lesions --config {params.config:q} --round {wildcards.round} > {log:q} 2>&1"
