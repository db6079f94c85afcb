"""Tables and figures of a model from labels and predictions. Arrays in, small records out.

Each number alone: `intervals.wilson(45, 50)`, `roc.delong(truth, scores, patients)`, `counts.class_table`,
`calibration.fit`, `readers.mcnemar` and so on. The whole of them from a site's two tables:

    made = tables.load(Path("labels.csv"), Path("predictions.csv"), ("DF", "VF", "SF", "UF"))
    source = provenance.provenance(made, seed=1, resamples=2000, command="by hand")
    record = assemble.evaluate(made, assemble.Options(), source)  # record.Evaluation
    report.writing.write(report.evaluation.evaluation_document(record), Path("report"))

No torch, no clock, no printing; a seed is an argument. Files are read in `table_files`, `data` and
`provenance` and written in `report.writing`. A proportion of nothing (0/0) has the value None. What is
imported here comes with the extra `hipnode[evaluation]`; the node itself never imports this room.
"""
