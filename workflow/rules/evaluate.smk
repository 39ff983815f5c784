# The only stage that reads test cases and withheld labels. No threshold is selected from its results, and no model
# except from those of validation cases.


rule evaluate_shard:
    input:
        plan=LAYOUT.plan,
        anatomy=LAYOUT.anatomy_rules,
        models=round_weights,
        images=shard_images,
        references=shard_references,
        key=key("evaluate_shard"),
    output:
        LAYOUT.evaluation_table("{round}", "{shard}"),
    log:
        LOGS / "evaluate" / "round_{round}_{shard}.log",
    benchmark:
        BENCHMARKS / "evaluate" / "round_{round}_{shard}.tsv"
    wildcard_constraints:
        round=r"\d+",
        shard=r"(validation|test)_\d+",
    threads: side_by_side(len(TEST) + len(VALIDATION), GPU)
    resources:
        mem_mb=memory(16000),
        runtime=720,
        gpu=GPU,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: predicting and scoring {wildcards.shard}"
    shell:
        "hstf evaluate --config {params.config:q} --round {wildcards.round} --shard {wildcards.shard} > {log:q} 2>&1"


rule evaluate_table:
    input:
        shards=[LAYOUT.evaluation_table("{round}", shard) for shard in TEST],
        pseudo_labels=scored_pseudo_labels,
        key=key("evaluate_table"),
    output:
        cases=LAYOUT.evaluation_cases("{round}"),
        members=LAYOUT.evaluation_members("{round}"),
        lesions=LAYOUT.evaluation_lesions("{round}"),
        pseudo_labels=LAYOUT.evaluation_pseudo_labels("{round}"),
        summary=LAYOUT.evaluation_summary("{round}"),
    log:
        LOGS / "evaluate" / "round_{round}.log",
    benchmark:
        BENCHMARKS / "evaluate" / "round_{round}.tsv"
    wildcard_constraints:
        round=r"\d+",
    threads: side_by_side(1)
    resources:
        mem_mb=memory(8000),
        runtime=240,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: scores"
    shell:
        "hstf evaluate --config {params.config:q} --round {wildcards.round} > {log:q} 2>&1"


rule evaluate_validation:
    input:
        shards=[LAYOUT.evaluation_table("{round}", shard) for shard in VALIDATION],
        key=key("evaluate_validation"),
    output:
        cases=LAYOUT.validation_table("{round}"),
        summary=LAYOUT.validation_summary("{round}"),
    log:
        LOGS / "evaluate" / "round_{round}_validation.log",
    benchmark:
        BENCHMARKS / "evaluate" / "round_{round}_validation.tsv"
    wildcard_constraints:
        round=r"\d+",
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: scores of the validation cases"
    shell:
        "hstf evaluate --config {params.config:q} --round {wildcards.round} --validation > {log:q} 2>&1"
