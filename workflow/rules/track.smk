# A round in MLflow. Tracking never fails a run; track.json lists what was logged.


rule track_round:
    input:
        plan=LAYOUT.plan,
        results=round_results,
        key=key("track_round"),
    output:
        LAYOUT.track("{round}"),
    log:
        LOGS / "track" / "round_{round}.log",
    benchmark:
        BENCHMARKS / "track" / "round_{round}.tsv"
    wildcard_constraints:
        round=r"\d+",
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=30,
    params:
        config=str(LAYOUT.config),
    message:
        "round {wildcards.round}: logging to MLflow"
    shell:
        "hstf track --config {params.config:q} --round {wildcards.round} > {log:q} 2>&1"
