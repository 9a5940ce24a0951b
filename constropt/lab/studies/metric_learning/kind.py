"""Retrieval as a kind of study: what ``constropt train metric`` runs, and Table 2.4."""

from __future__ import annotations

from constropt.lab.studies.kind import StudyKind
from constropt.lab.studies.metric_learning.methods import METHODS
from constropt.lab.studies.metric_learning.study_figures import write_figures
from constropt.lab.studies.metric_learning.study_report import MAIN, NOTES, columns, described, remarks
from constropt.lab.studies.metric_learning.thesis_table import BENCHMARKS, TABLES

RETRIEVAL = StudyKind(
    name="retrieval",
    title="Retrieval",
    what="loss",
    methods=METHODS,
    columns=lambda study: columns(study.settings["ks"]),
    main=MAIN,
    described=described,
    remarks=remarks,
    notes=NOTES,
    write_figures=write_figures,
    benchmarks=BENCHMARKS,
    tables=TABLES,
)
