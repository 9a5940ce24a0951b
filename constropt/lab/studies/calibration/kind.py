"""Calibration as a kind of study: what ``constropt train calibration`` runs, and the tables of chapter 6 and appendix V
of the thesis as data. Published figures are those of ResNet-50, DeepLabV3 and GPCN on Tiny-ImageNet, ImageNet-LT,
PASCAL VOC and 20 Newsgroups; here stand in Omniglot's characters (many classes, few samples each), long-tailed
CIFAR-10, CamVid and 20 Newsgroups, with networks that a CPU trains in a minute: the order of methods, not of magnitude.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from constropt.lab.models.calibration import deeplab, gpcn, small_resnet18
from constropt.lab.models.small import digits_cnn
from constropt.lab.runs.specs import reference_of
from constropt.lab.studies.calibration import study_report as report
from constropt.lab.studies.calibration.methods import METHODS
from constropt.lab.studies.calibration.study import CalibrationSetup
from constropt.lab.studies.calibration.study_data import DataSettings
from constropt.lab.studies.epochs import TrainingSettings
from constropt.lab.studies.kind import StudyKind
from constropt.lab.studies.study import Study
from constropt.lab.studies.tables import Benchmark, Block, Column, StudyTable, layout, ordered, with_figures

Published = Mapping[str, Sequence[float | None]]
# the data sets of the published figures
SOURCE = {"many-class": "Tiny-ImageNet", "long-tailed": "ImageNet-LT", "text": "20 Newsgroups", "segmentation": "VOC"}


@dataclass(frozen=True, kw_only=True)
class CalibrationTable(StudyTable):
    """Methods by columns on some benchmarks; ``published[benchmark][method]`` has the thesis' figures in the order of
    the columns, per cent, from the data set named by ``source[benchmark]``.
    """

    columns: tuple[Column, ...]
    published: Mapping[str, Published] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=lambda: SOURCE)

    def block(self, name: str, title: str, study: Study, methods: Sequence[str]) -> Block:
        """A line per method; columns that no run has a figure for are left out."""
        source = f"{self.source[name]} (thesis)" if name in self.published else ""
        columns = with_figures(study, self.columns)
        beside = [column for column in columns if any(self._published(name, m, column) != "-" for m in methods)]
        among = ordered([method for method in methods if method in study.results], METHODS)
        header, lines = layout(study, METHODS, columns, among)
        header += [f"{source} {column.header}" for column in beside]
        for line, method in zip(lines, among):
            line += [self._published(name, method, column) for column in beside]
        return Block(f"{title}: {report.described(study)}", header, lines, report.remarks(study))

    def _published(self, name: str, method: str, column: Column) -> str:
        row = self.published.get(name, {}).get(method)
        value = None if row is None else row[self.columns.index(column)]
        return "-" if value is None else f"{value:g}"


_RESNET = f"{reference_of(small_resnet18)}[width=8]"


def _benchmark(title: str, model: str, training: TrainingSettings, data: DataSettings, *needs: str) -> Benchmark:
    return Benchmark(title, CalibrationSetup(data=data, training=training, model=model), needs)


# settings chosen on cross-entropy alone: long enough that it over-fits, as the hundred and more epochs published do
_SGD = TrainingSettings(epochs=20, optimizer="sgd")
BENCHMARKS: dict[str, Benchmark] = {
    "many-class": _benchmark(
        "Omniglot", _RESNET, _SGD, DataSettings("omniglot:{}/omniglot[size=16]", held_out=3), "omniglot"
    ),
    "long-tailed": _benchmark(
        "CIFAR-10-LT", _RESNET, replace(_SGD, augment="shift-mirror"),
        DataSettings(
            "cifar10:{}/cifar10/cifar10_train8k.npz[size=16]", "cifar10:{}/cifar10/cifar10_test.npz", held_out=50,
            long_tail=100.0, test_samples=3000,
        ),
        "cifar10/cifar10_train8k.npz", "cifar10/cifar10_test.npz",
    ),
    "fashion": _benchmark(
        "Fashion-MNIST", _RESNET, _SGD,
        DataSettings("npz:{}/fashion_mnist/fashion_mnist_40k.npz[size=14]", samples=3000, test_samples=3000),
        "fashion_mnist/fashion_mnist_40k.npz",
    ),
    "segmentation": _benchmark(
        "CamVid", f"{reference_of(deeplab)}[width=8]", TrainingSettings(epochs=40, batch_size=8),
        DataSettings("camvid:{}/camvid[size=[90,120]]"), "camvid/train", "camvid/test",
    ),
    "text": _benchmark(
        "20 Newsgroups", f"{reference_of(gpcn)}[embedding=32,width=32]",
        TrainingSettings(epochs=16, optimizer="adam", lr=2e-3, schedule="half"),
        DataSettings(
            "newsgroups:{}/newsgroups20/20news_bydate.jsonl.gz[length=100,vocabulary=8000]", held_out=45,
            test_samples=4000,
        ),
        "newsgroups20/20news_bydate.jsonl.gz",
    ),
    "digits": _benchmark("digits", reference_of(digits_cnn), TrainingSettings(epochs=20), DataSettings("digits")),
}  # fmt: skip
_ALL = ("ce", "mmce", "ecp", "ls", "fl", "flsd", "cpc", "mbls", "cals-hr", "cals-alm")
_SCALED = ("ce", "ls", "fl", "flsd", "cpc", "mbls", "cals-hr", "cals-alm")
_DENSE, _NOISY = ("ce", "ecp", "ls", "fl", "mbls", "cals-alm"), ("ce", "ls", "fl", "mbls", "cals-alm")


def _rows(methods: Sequence[str], *columns: Sequence[float | None]) -> dict[str, tuple[float | None, ...]]:
    """Published columns as rows by method."""
    return dict(zip(methods, zip(*columns)))


TABLES: Mapping[str, CalibrationTable] = {
    "table-6.1": CalibrationTable(
        title="Calibration of image classifiers", benchmarks=("many-class", "long-tailed", "fashion"), methods=_ALL,
        columns=(report.ACCURACY, report.ECE, report.AECE, report.ECE_SCALED),
        published={"many-class": _rows(
            _ALL, (65.02, 65.34, 64.90, 65.78, 63.09, 64.09, 64.49, 64.74, 65.09, 65.03),
            (3.73, 2.81, 4.00, 3.17, 2.96, 2.91, 4.88, 1.64, 2.50, 1.54),
            (3.69, 2.61, 3.92, 3.16, 3.12, 2.95, 4.91, 1.73, 2.42, 1.38),
            (1.86, None, None, 1.79, 1.74, 1.74, 2.66, 1.64, 1.82, 1.54),
        ), "long-tailed": _rows(
            _ALL, (37.90, 37.79, 37.69, 37.88, 36.04, 36.18, 38.90, 38.32, 38.50, 38.56),
            (28.12, 28.41, 28.14, 10.46, 18.37, 17.77, 16.00, 6.16, 2.83, 2.15),
            (28.12, 28.40, 28.13, 10.38, 18.36, 17.78, 15.99, 6.16, 2.78, 2.30),
            (3.72, None, None, 3.32, 2.52, 3.40, 3.22, 2.60, 2.83, 1.81),
        )},
    ),
    "table-6.2": CalibrationTable(
        title="Calibration of segmentation", benchmarks=("segmentation",), methods=_DENSE,
        columns=(report.ECE, report.MIOU, report.ACCURACY, report.ECE_SCALED),
        published={"segmentation": _rows(
            _DENSE, (14.75, 5.15, 6.90, 10.87, 5.22, 4.66), (66.46, 65.57, 67.73, 64.25, 65.29, 66.77), (None,) * 6,
            (None,) * 6,
        )},
    ),
    "table-6.3": CalibrationTable(
        title="Calibration of text classifiers", benchmarks=("text",), methods=_ALL,
        columns=(report.ECE, report.ACCURACY, report.ECE_SCALED),
        published={"text": _rows(
            _ALL, (22.75, 23.02, 22.97, 8.07, 10.80, 10.87, 9.46, 5.40, None, 2.04),
            (67.01, 66.23, 66.48, 67.14, 66.08, 65.85, 68.27, 67.89, None, 68.32),
            (3.01, None, None, 3.69, 3.33, 4.10, 4.35, 2.09, 3.14, 1.86),
        )},
    ),
    "table-V-1": CalibrationTable(
        title="ECE before and after temperature scaling", benchmarks=("many-class", "long-tailed", "text"),
        methods=_SCALED, columns=(report.ECE, report.ECE_SEARCHED, report.TEMPERATURE_SEARCHED, report.ECE_SCALED),
        published={"many-class": _rows(
            _SCALED, (3.73, 3.17, 2.96, 2.91, 4.88, 1.64, 2.50, 1.54),
            (1.86, 1.79, 1.74, 1.74, 2.66, 1.64, 1.82, 1.54), (1.1, 0.9, 0.9, 0.9, 1.5, 1.0, 0.9, 1.0), (None,) * 8,
        ), "long-tailed": _rows(
            _SCALED, (28.12, 10.46, 18.37, 17.77, 16.00, 6.16, 2.83, 2.15),
            (3.72, 3.32, 2.52, 3.40, 3.22, 2.60, 2.83, 1.81), (1.7, 1.3, 1.5, 1.4, 1.2, 1.1, 1.0, 0.9), (None,) * 8,
        ), "text": _rows(
            _SCALED, (22.75, 8.07, 10.80, 10.87, 9.46, 5.40, 6.99, 2.04),
            (3.01, 3.69, 3.33, 4.10, 4.35, 2.09, 3.14, 1.86), (3.1, 1.2, 1.4, 1.4, 1.4, 1.1, 1.1, 1.1), (None,) * 8,
        )},
    ),
    "table-V-2": CalibrationTable(
        title="Class-wise calibration error", benchmarks=("many-class", "long-tailed"), methods=_SCALED,
        columns=(report.CWCE,),
        published={"long-tailed": _rows(_SCALED, (0.090, 0.072, 0.087, 0.087, 0.078, 0.072, 0.071, 0.069))},
    ),
    "table-V-3": CalibrationTable(
        title="ECE under Gaussian noise of severity 5", benchmarks=("long-tailed", "many-class"), methods=_NOISY,
        columns=(report.SHIFTED,), published={"long-tailed": _rows(_NOISY, (19.99, 27.51, 15.80, 15.40, 12.91))},
    ),
}  # fmt: skip


CALIBRATION = StudyKind(
    name="calibration", title="Calibration", what="method", methods=METHODS, columns=lambda study: report.COLUMNS,
    main=report.MAIN, described=report.described, remarks=report.remarks, notes=report.NOTES,
    write_figures=report.write_figures, benchmarks=BENCHMARKS, tables=TABLES,
)  # fmt: skip
