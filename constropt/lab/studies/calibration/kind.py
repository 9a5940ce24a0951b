"""Calibration as a kind of study: what ``constropt train calibration`` runs, and the tables of chapter 6."""

from __future__ import annotations

from constropt.lab.studies.calibration.benchmarks import BENCHMARKS, TABLES
from constropt.lab.studies.calibration.methods import METHODS
from constropt.lab.studies.calibration.study_figures import write_figures
from constropt.lab.studies.calibration.study_report import COLUMNS, MAIN, NOTES, described, remarks
from constropt.lab.studies.kind import StudyKind

CALIBRATION = StudyKind(
    name="calibration",
    title="Calibration",
    what="method",
    methods=METHODS,
    columns=lambda study: COLUMNS,
    main=MAIN,
    described=described,
    remarks=remarks,
    notes=NOTES,
    write_figures=write_figures,
    benchmarks=BENCHMARKS,
    tables=TABLES,
)
