# Round 1 and on: a member is trained on labelled cases and on what the method makes of the unlabelled ones.


rule student_member:
    input:
        plan=LAYOUT.plan,
        start=start_weights,
        cases=training_cases,
        labels=training_labels,
    output:
        weights=LAYOUT.weights("{round}", "{member}"),
        history=LAYOUT.history("{round}", "{member}"),
    log:
        LOGS / "student" / "round_{round}_{member}.log",
    benchmark:
        BENCHMARKS / "student" / "round_{round}_{member}.tsv"
    threads: side_by_side(CONFIG.student.members)
    resources:
        **ranks("student"),
        mem_mb=memory(TRAINING_MB * CONFIG.student.gpus),
        runtime=1440,
    params:
        config=str(LAYOUT.config),
        # A training that is interrupted goes on from here: no output, since outputs of a failed job are deleted.
        state=str(LAYOUT.training_state("{round}", "{member}")),
        parameters=parameters("student"),
        patients=dealt_patients(before=0),
    message:
        "round {wildcards.round}: training {wildcards.member}"
    shell:
        "{resources.launch} student --config {params.config:q} --round {wildcards.round} --member {wildcards.member} > {log:q} 2>&1"
