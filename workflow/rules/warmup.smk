# Round 0: networks are trained on the labelled cases only. fold_k leaves out fold k; seed_k sees all cases.


rule warmup_member:
    input:
        plan=LAYOUT.plan,
        start=seed_weights,
        cases=[LAYOUT.preprocessed_table(shard) for shard in LABELLED],
        key=key("warmup_member"),
    output:
        weights=LAYOUT.weights(0, "{member}"),
        history=LAYOUT.history(0, "{member}"),
    log:
        LOGS / "warmup" / "{member}.log",
    benchmark:
        BENCHMARKS / "warmup" / "{member}.tsv"
    threads: side_by_side(len(SCHEDULE.trained(0)), GPU * CONFIG.warmup.gpus)
    resources:
        **ranks("warmup"),
        mem_mb=memory(TRAINING_MB * CONFIG.warmup.gpus),
        runtime=1440,
    params:
        config=str(LAYOUT.config),
        large_pages=LARGE_PAGES,
        # An interrupted training continues from here. It is no output: Snakemake deletes outputs of failed jobs.
        state=str(LAYOUT.training_state(0, "{member}")),
    message:
        "warm-up: training {wildcards.member}"
    shell:
        "{params.large_pages} {resources.launch} warmup --config {params.config:q} --member {wildcards.member} > {log:q} 2>&1"
