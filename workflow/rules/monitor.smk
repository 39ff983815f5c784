# The model of each round predicts some unlabelled cases: has it lost a class? No label is read.


rule monitor_round:
    input:
        plan=LAYOUT.plan,
        models=round_weights,
        cases=monitor_cases,
        earlier=earlier_monitors,
        teacher=teacher_of_round,
        key=key("monitor_round"),
    output:
        LAYOUT.monitor("{round}"),
    log:
        LOGS / "monitor" / "round_{round}.log",
    benchmark:
        BENCHMARKS / "monitor" / "round_{round}.tsv"
    wildcard_constraints:
        round=r"\d+",
    threads: side_by_side(1)
    resources:
        mem_mb=memory(16000),
        runtime=240,
        gpu=GPU,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: looking for a collapse"
    shell:
        "hstf monitor --config {params.config:q} --round {wildcards.round} > {log:q} 2>&1"
