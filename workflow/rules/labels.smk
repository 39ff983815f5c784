# What the student learns from: pseudo-labels and corrected labels.


rule labels_shard:
    input:
        cases=LAYOUT.preprocessed_table("{shard}"),
        pseudo_labels=LAYOUT.pseudo_labels_table("{round}", "{shard}"),
        verdicts=LAYOUT.refine("{round}"),
        overrides=override_files,
        key=key("labels_shard"),
    output:
        LAYOUT.labels_shard_table("{round}", "{shard}"),
    log:
        LOGS / "labels" / "round_{round}_{shard}.log",
    benchmark:
        BENCHMARKS / "labels" / "round_{round}_{shard}.tsv"
    threads: side_by_side(len(UNLABELLED))
    resources:
        mem_mb=memory(16000),
        runtime=240,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: labels of {wildcards.shard}"
    shell:
        "hstf labels --config {params.config:q} --round {wildcards.round} --shard {wildcards.shard} > {log:q} 2>&1"


rule labels_table:
    input:
        [LAYOUT.labels_shard_table("{round}", shard) for shard in UNLABELLED],
        key=key("labels_table"),
    output:
        report(
            LAYOUT.labels_table("{round}"),
            category="Pseudo-labels",
            caption="../report/labels.rst",
        ),
    log:
        LOGS / "labels" / "round_{round}.log",
    benchmark:
        BENCHMARKS / "labels" / "round_{round}.tsv"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: table of all labels"
    shell:
        "hstf labels --config {params.config:q} --round {wildcards.round} > {log:q} 2>&1"
