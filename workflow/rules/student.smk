# From round 1: an ensemble member is trained on labelled and unlabelled cases.


rule student_member:
    input:
        plan=LAYOUT.plan,
        start=start_weights,
        cases=training_cases,
        labels=training_labels,
        key=key("student_member"),
    output:
        weights=LAYOUT.weights("{round}", "{member}"),
        history=LAYOUT.history("{round}", "{member}"),
    log:
        LOGS / "student" / "round_{round}_{member}.log",
    benchmark:
        BENCHMARKS / "student" / "round_{round}_{member}.tsv"
    threads: side_by_side(CONFIG.student.members, GPU * CONFIG.student.gpus)
    resources:
        **ranks("student"),
        mem_mb=memory(TRAINING_MB * CONFIG.student.gpus),
        runtime=1440,
    params:
        config=str(LAYOUT.config),
        large_pages=LARGE_PAGES,
        # An interrupted training continues from here. It is no output: Snakemake deletes outputs of failed jobs.
        state=str(LAYOUT.training_state("{round}", "{member}")),
    message:
        "round {wildcards.round}: training {wildcards.member}"
    shell:
        "{params.large_pages} {resources.launch} student --config {params.config:q} --round {wildcards.round} --member {wildcards.member} > {log:q} 2>&1"
