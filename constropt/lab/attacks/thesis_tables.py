"""The tables of attacks in the thesis (Rony, 2023) as data: which recipe, with which options, stands in which row.
Published figures stand beside the rows, as far as their data sets go; they are those of other networks than the small
ones that run here by default, and tell the order of magnitude. Recipes are named, not imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Published = Mapping[str, float]
_Row = tuple[str, str, str, dict[str, Any]]


@dataclass(frozen=True)
class TableRow:
    """A row: ``attack`` as printed, the recipe's name and options, and the distance that it is judged by.
    ``published``: figures by the names of :data:`~constropt.lab.attacks.results.FIGURES`, rates as fractions; for
    targeted attacks, after "average." or "least likely.".
    """

    attack: str
    recipe: str
    distance: str
    options: Mapping[str, Any]
    published: Published = field(default_factory=dict)


@dataclass(frozen=True)
class ThesisTable:
    """``kind``: "means" over models, "targets" (average and least likely class) or "models" (each with its robust
    accuracy at ``radius``). ``data``: "mnist", "cifar10" or "imagenet", for which defaults are looked up.
    """

    name: str
    title: str
    kind: str
    data: str
    rows: tuple[TableRow, ...]
    radius: float | None = None


def _quality(success: float, median: float | None, forwards: float, backwards: float) -> dict[str, float]:
    figures = {"success_rate": success / 100, "forwards": forwards, "backwards": backwards}
    return figures if median is None else {**figures, "median_distance": median}


def _first(success: float, mean: float, median: float, gradients: float) -> dict[str, float]:
    return {"success_rate": success / 100, "mean_distance": mean, "median_distance": median, "backwards": gradients}


_CW_4 = ("C&W 4×25", "cw", "l2", {"distance": "l2", "steps": 100, "searches": 4})
_CW_1 = ("C&W 1×100", "cw", "l2", {"distance": "l2", "steps": 100, "searches": 1})
_CW_9 = ("C&W 9×10 000", "cw", "l2", {"distance": "l2", "steps": 90_000, "searches": 9})
_DEEPFOOL = ("DeepFool 100", "deepfool", "l2", {"distance": "l2", "steps": 100})
# quantised in every step, as in Sec. 3.4
_DDN = {steps: (f"DDN {steps}", "ddn", "l2", {"steps": steps, "quantize": 256}) for steps in (100, 300, 1000)}

_TARGETED = (_CW_4, _CW_1, _CW_9, _DDN[100], _DDN[300], _DDN[1000])
_DEFENSES = tuple(TableRow(*row) for row in (_CW_9, _DEEPFOOL, _DDN[1000]))


def _targeted(*published: tuple[float, float, float, float]) -> tuple[TableRow, ...]:
    """Success in per cent and mean distance, on average and for the least likely class, of each of the attacks."""
    names = [f"{kind}.{figure}" for kind in ("average", "least likely") for figure in ("success_rate", "mean_distance")]
    figures = ((average / 100, mean, least / 100, least_mean) for average, mean, least, least_mean in published)
    return tuple(TableRow(*row, dict(zip(names, found))) for row, found in zip(_TARGETED, figures))


_TABLE_3_1 = (
    TableRow(*_CW_4, _first(100.0, 1.7382, 1.7400, 100)), TableRow(*_CW_1, _first(99.4, 1.5917, 1.6405, 100)),
    TableRow(*_CW_9, _first(100.0, 1.3961, 1.4121, 54_007)), TableRow(*_DEEPFOOL, _first(75.4, 1.9685, 2.2909, 98)),
    TableRow(*_DDN[100], _first(100.0, 1.4563, 1.4506, 100)), TableRow(*_DDN[300], _first(100.0, 1.4357, 1.4386, 300)),
    TableRow(*_DDN[1000], _first(100.0, 1.4240, 1.4342, 1000)),
)  # fmt: skip
_TABLE_3_2 = _targeted(
    (96.11, 2.8254, 69.9, 5.0090), (86.89, 2.0940, 31.7, 2.6062), (100.00, 1.9481, 100.0, 2.5370),
    (100.00, 1.9763, 100.0, 2.6008), (100.00, 1.9577, 100.0, 2.5503), (100.00, 1.9511, 100.0, 2.5348),
)  # fmt: skip
_TABLE_3_3 = _targeted(
    (99.78, 0.3247, 98.7, 0.5060), (99.32, 0.3104, 95.8, 0.4159), (100.00, 0.2798, 100.0, 0.3905),
    (100.00, 0.2925, 100.0, 0.4170), (100.00, 0.2887, 100.0, 0.4090), (100.00, 0.2867, 100.0, 0.4050),
)  # fmt: skip
_TABLE_3_4 = _targeted(
    (99.13, 4.2826, 80.6, 8.7336), (96.74, 1.7718, 66.2, 2.2997), (100.00, 0.96, 100.0, 2.22),
    (99.98, 1.0260, 99.5, 1.7074), (100.00, 0.9021, 100.0, 1.3634), (100.00, 0.8444, 100.0, 1.2240),
)  # fmt: skip

_EAD = {steps: ("ead", "l1", {"rule": "l1", "steps": 9 * steps, "searches": 9}) for steps in (100, 1000)}


def _norms(published: Mapping[str, tuple[float, float | None, float, float]]) -> tuple[TableRow, ...]:
    """The l1 and l2 rows that Tables 4.1 and 4.2 share; those without figures stand there as well."""

    def both(attack: str, norm: str) -> list[_Row]:
        name, steps = attack.lower(), (100, 1000)
        return [(f"{attack} {norm} {count}", name, norm, {"distance": norm, "steps": count}) for count in steps]

    cw: list[_Row] = [(f"C&W l2 9×{steps}", "cw", "l2", {**_CW_9[3], "steps": 9 * steps}) for steps in (1000, 10_000)]
    ddn: list[_Row] = [(f"DDN {steps}", "ddn", "l2", {"steps": steps}) for steps in (100, 1000)]
    apgd: _Row = ("APGD-DLR-T l2", "apgd", "l2", {"distance": "l2", "loss": "targeted dlr"})
    rows = [(f"EAD 9×{steps}", *_EAD[steps]) for steps in (100, 1000)]
    rows += [*both("FAB", "l1"), *both("FMN", "l1"), *both("ALMA", "l1")]
    rows += [*cw, *ddn, *both("FAB", "l2"), *both("FMN", "l2"), apgd, *both("ALMA", "l2")]
    return tuple(TableRow(*row, _quality(*published[row[0]])) for row in rows)


_TABLE_4_1 = _norms({
    "EAD 9×100": (97.18, 21.94, 807, 407), "EAD 9×1000": (97.76, 19.19, 5025, 2516),
    "FAB l1 100": (99.80, 27.41, 201, 1000), "FAB l1 1000": (99.83, 24.21, 2001, 10_000),
    "FMN l1 100": (69.87, None, 100, 100), "FMN l1 1000": (95.35, 7.34, 1000, 1000),
    "ALMA l1 100": (99.90, 11.45, 100, 100), "ALMA l1 1000": (100, 7.16, 1000, 1000),
    "C&W l2 9×1000": (40.19, None, 8643, 8643), "C&W l2 9×10000": (40.20, None, 85_907, 85_907),
    "DDN 100": (98.48, 1.86, 100, 100), "DDN 1000": (99.83, 1.61, 1000, 1000),
    "FAB l2 100": (83.25, 2.10, 201, 1000), "FAB l2 1000": (96.28, 1.77, 2001, 10_000),
    "FMN l2 100": (70.99, 3.18, 100, 100), "FMN l2 1000": (96.02, 1.77, 1000, 1000),
    "ALMA l2 100": (99.72, 2.38, 100, 100), "ALMA l2 1000": (100, 1.61, 1000, 1000),
    "APGD-DLR-T l2": (99.98, 2.52, 12_271, 12_253),
})  # fmt: skip


_CIEDE, _LPIPS = {"distance": "ciede2000"}, {"distance": "lpips"}
_TABLE_4_2 = (
    *_norms({
        "EAD 9×100": (100, 6.11, 572, 290), "EAD 9×1000": (100, 5.44, 4284, 2146),
        "FAB l1 100": (96.58, 4.26, 201, 1000), "FAB l1 1000": (99.00, 3.78, 2001, 10_000),
        "FMN l1 100": (99.90, 3.64, 100, 100), "FMN l1 1000": (99.83, 3.54, 1000, 1000),
        "ALMA l1 100": (100, 4.31, 100, 100), "ALMA l1 1000": (100, 3.69, 1000, 1000),
        "C&W l2 9×1000": (100, 0.40, 7976, 7974), "C&W l2 9×10000": (100, 0.40, 78_081, 78_079),
        "DDN 100": (100, 0.43, 100, 100), "DDN 1000": (100, 0.42, 1000, 1000),
        "FAB l2 100": (100, 0.41, 201, 1000), "FAB l2 1000": (100, 0.41, 2001, 10_000),
        "FMN l2 100": (99.90, 0.43, 100, 100), "FMN l2 1000": (99.83, 0.40, 1000, 1000),
        "ALMA l2 100": (100, 0.40, 100, 100), "ALMA l2 1000": (100, 0.38, 1000, 1000),
        "APGD-DLR-T l2": (100, 0.38, 5345, 5321),
    }),
    TableRow("C&W CIEDE2000 9×1000", "cw", "ciede2000", {**_CIEDE, "steps": 9000}, _quality(100, 0.93, 6729, 6726)),
    TableRow("PerC-AL 100", "perc_al", "ciede2000", {"steps": 100}, _quality(100, 2.87, 201, 100)),
    TableRow("PerC-AL 1000", "perc_al", "ciede2000", {"steps": 1000}, _quality(100, 2.72, 2001, 1000)),
    TableRow("ALMA CIEDE2000 100", "alma", "ciede2000", {**_CIEDE, "steps": 100}, _quality(100, 1.09, 100, 100)),
    TableRow("ALMA CIEDE2000 1000", "alma", "ciede2000", {**_CIEDE, "steps": 1000}, _quality(100, 0.78, 1000, 1000)),
    TableRow("C&W LPIPS 9×1000", "cw", "lpips", {**_LPIPS, "steps": 9000}, _quality(100, 0.0047, 6658, 6655)),
    TableRow("LPA", "lpa", "lpips", {}, _quality(100, 0.0539, 1118, 1108)),
    TableRow("ALMA LPIPS 100", "alma", "lpips", {**_LPIPS, "steps": 100}, _quality(99.97, 0.0247, 100, 100)),
    TableRow("ALMA LPIPS 1000", "alma", "lpips", {**_LPIPS, "steps": 1000}, _quality(100, 0.0060, 1000, 1000)),
)  # fmt: skip

TABLES = {table.name: table for table in (
    ThesisTable("table-3.1", "DDN beside C&W and DeepFool, untargeted (MNIST)", "means", "mnist", _TABLE_3_1),
    ThesisTable("table-3.2", "DDN beside C&W, targeted (MNIST)", "targets", "mnist", _TABLE_3_2),
    ThesisTable("table-3.3", "DDN beside C&W, targeted (CIFAR-10)", "targets", "cifar10", _TABLE_3_3),
    ThesisTable("table-3.4", "DDN beside C&W, targeted (ImageNet)", "targets", "imagenet", _TABLE_3_4),
    ThesisTable("table-3.5", "Robustness of models to l2 (MNIST)", "models", "mnist", _DEFENSES, 1.5),
    ThesisTable("table-3.6", "Robustness of models to l2 (CIFAR-10)", "models", "cifar10", _DEFENSES, 0.5),
    ThesisTable("table-4.1", "Minimal attacks (MNIST)", "means", "mnist", _TABLE_4_1),
    ThesisTable("table-4.2", "Minimal attacks (CIFAR-10)", "means", "cifar10", _TABLE_4_2),
)}  # fmt: skip
