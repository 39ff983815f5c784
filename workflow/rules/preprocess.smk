# Scans of a shard on the planned grid; labels of labelled cases only. `evaluate` reads the test cases.


rule preprocess_shard:
    input:
        check=LAYOUT.check,  # has the SHA-256 of all scans
        plan=LAYOUT.plan,
        key=key("preprocess_shard"),
    output:
        LAYOUT.preprocessed_table("{shard}"),
    log:
        LOGS / "preprocess" / "{shard}.log",
    benchmark:
        BENCHMARKS / "preprocess" / "{shard}.tsv"
    wildcard_constraints:
        shard=r"(labelled|unlabelled)_\d+",
    threads: side_by_side(len(LABELLED | UNLABELLED))
    resources:
        mem_mb=memory(16000),
        runtime=480,
    params:
        config=str(LAYOUT.config),
    message:
        "preprocessing {wildcards.shard}"
    shell:
        "hstf preprocess --config {params.config:q} --shard {wildcards.shard} > {log:q} 2>&1"
