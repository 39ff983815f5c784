# A network is trained without labels on the images of all labelled and unlabelled cases (`pretrain.task`).


rule pretrain:
    input:
        plan=LAYOUT.plan,
        cases=[LAYOUT.preprocessed_table(shard) for shard in (*LABELLED, *UNLABELLED)],
        key=key("pretrain"),
    output:
        weights=LAYOUT.pretrained_weights,
        history=LAYOUT.pretraining_history,
        examples=LAYOUT.pretraining_examples,
    log:
        LOGS / "pretrain.log",
    benchmark:
        BENCHMARKS / "pretrain.tsv"
    threads: side_by_side(1)
    resources:
        mem_mb=memory(TRAINING_MB),
        runtime=1440,
        gpu=GPU,
    params:
        config=str(LAYOUT.config),
        large_pages=LARGE_PAGES,
        # An interrupted training continues from here. It is no output: Snakemake deletes outputs of failed jobs.
        state=str(LAYOUT.pretraining_state),
    message:
        "pre-training without labels"
    shell:
        "{params.large_pages} hstf pretrain --config {params.config:q} > {log:q} 2>&1"
