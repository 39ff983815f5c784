# The synthetic scans of the demo; only for a configuration with a `phantom:` section.

if CONFIG.phantom is not None:

    rule phantom:
        output:
            images=[image for case in SHEET.cases for image in case.images],
            labels=references(SHEET.cases),
        log:
            LOGS / "phantom.log",
        benchmark:
            BENCHMARKS / "phantom.tsv"
        threads: 1
        resources:
            mem_mb=memory(2000),
            runtime=30,
        params:
            options=CONFIG.phantom.options(),
        message:
            "making the synthetic scans"
        shell:
            "hstf phantom {params.options} > {log:q} 2>&1"
