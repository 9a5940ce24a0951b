"""What a study found: the columns of its tables, one sentence per comparison, and its figures."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from constropt.lab.studies.calibration.methods import METHODS
from constropt.lab.studies.calibration.study import predict
from constropt.lab.studies.calibration.study_data import DataSettings, StudyPools, build_network, load_pools
from constropt.lab.studies.study import Study, outdated, read_history
from constropt.lab.studies.tables import Column, average, title_of
from constropt.plotting import require_matplotlib
from constropt.problems.calibration.diagrams import multiplier_curves, reliability_diagram
from constropt.weights import load_weights

RIVALS = ("ce", "ls", "fl", "mbls")  # what CALS-ALM is held against
SLACK = 0.005  # of accuracy that may be lost to cross-entropy

ACCURACY, MIOU = Column("Acc %", ("before", "accuracy")), Column("mIoU %", ("before", "miou"))
ECE, AECE = Column("ECE %", ("before", "ece")), Column("AECE %", ("before", "aece"))
CWCE = Column("CWCE %", ("before", "cwce"))
NLL, BRIER = Column("NLL", ("before", "nll"), False), Column("Brier", ("before", "brier"), False)
ECE_SCALED, NLL_SCALED = Column("ECE % + TS", ("after-nll", "ece")), Column("NLL + TS", ("after-nll", "nll"), False)
TEMPERATURE = Column("T", ("temperature", "nll"), False)
ECE_SEARCHED = Column("ECE % + TS (ECE)", ("after-ece", "ece"))
TEMPERATURE_SEARCHED = Column("T (ECE)", ("temperature", "ece"), False)
SHIFTED = Column("ECE % noise 5", ("shift", "5"))

COLUMNS = (
    ACCURACY, MIOU, ECE, AECE, CWCE, BRIER, NLL, ECE_SCALED, TEMPERATURE, NLL_SCALED, ECE_SEARCHED,
    TEMPERATURE_SEARCHED, SHIFTED,
)  # fmt: skip
NOTES = (
    "mean ± standard deviation over seeds; a seed draws the held-out part, the initial weights and the order of the"
    " batches, the same for all methods; TS: one temperature of least NLL on the held-out part (Guo et al.), or of"
    " least ECE (the thesis)"
)
MAIN = (ACCURACY, MIOU, ECE, ECE_SCALED, TEMPERATURE, NLL)  # what a terminal has room for


def remarks(study: Study) -> list[str]:
    """Whether the ECE of CALS-ALM is below its rivals' without temperature scaling, and its accuracy near that of CE:
    on average over the seeds that both have.
    """
    if "cals-alm" not in study.results:
        return []
    places: dict[str, list[str]] = {"below": [], "level with": [], "not below": []}
    for rival in RIVALS:
        if gaps := _gaps(study, rival, ECE):
            gap = average(gaps)
            place = "level with" if abs(gap) <= _standard_error(gaps) else "below" if gap < 0 else "not below"
            places[place].append(f"{METHODS[rival].title} ({100 * gap:+.2f})")
    lines = []
    if any(places.values()):
        found = "; ".join(f"{place} {', '.join(rivals)}" for place, rivals in places.items() if rivals)
        level = "level: within the standard error of the difference over seeds"
        lines.append(f"without temperature scaling the ECE of CALS-ALM is {found} (points; {level})")
    if gaps := _gaps(study, "ce", ACCURACY):
        gap, holds = average(gaps), "holds" if average(gaps) >= -SLACK else "does not hold"
        below = f"not below by more than {100 * SLACK:g} {holds}"
        lines.append(f"accuracy of CALS-ALM minus that of CE: {100 * gap:+.2f} points; {below}")
    found = {method: [ECE_SCALED.of(run) for run in runs.values()] for method, runs in study.results.items()}
    kept = {method: [value for value in values if value is not None] for method, values in found.items()}
    scaled = {method: average(values) for method, values in kept.items() if values}
    if scaled:
        best = min(scaled, key=scaled.__getitem__)
        lines.append(f"lowest ECE with temperature scaling: {title_of(best, METHODS)} ({100 * scaled[best]:.2f})")
    return lines


def _gaps(study: Study, rival: str, column: Column) -> list[float]:
    """The figure of CALS-ALM minus that of ``rival``, for each seed of both."""
    ours, theirs = study.results["cals-alm"], study.results.get(rival, {})
    pairs = [(column.of(ours[seed]), column.of(theirs[seed])) for seed in ours if seed in theirs]
    return [mine - other for mine, other in pairs if mine is not None and other is not None]


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean; 0 for one value, of which nothing is known."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def described(study: Study) -> str:
    """Data, model and training of a study in one line."""
    data, training = study.settings["data"], study.settings["training"]
    extra = [f"long-tailed 1:{data['long_tail']:g}"] if data["long_tail"] is not None else []
    rate = "" if training["lr"] is None else f" {training['lr']:g}"
    epochs = f"{training['epochs']} epochs of {training['optimizer']}{rate}, {training['schedule']}"
    return ", ".join([data["data"], *extra, f"{data['classes']} classes", study.settings["model"], epochs])


_BINS = 25  # of the diagrams, as in Fig. V-2


def write_figures(study: Study) -> list[Path]:
    """Write ``reliability-METHOD.png`` (Fig. V-2) and ``multipliers-METHOD.png``, the held-out ECE of every method
    beside them (Fig. 6.3 and V-1), for the lowest seed of each method; those newer than their weights are kept. Raises
    :class:`~constropt.lab.MissingExtra` without matplotlib.
    """
    require_matplotlib()
    written = []
    seeds = {method: min(runs) for method, runs in study.results.items()}
    weights = {method: study.weights(method, seed) for method, seed in seeds.items()}
    histories = {method: read_history(study, method, seed) for method, seed in seeds.items()}
    settings = DataSettings(**{name: study.settings["data"][name] for name in DataSettings.__dataclass_fields__})
    pools: StudyPools | None = None
    for method, seed in seeds.items():
        name = study.folder(method, seed).name.rpartition("-")[0]
        written.append(study.out / f"reliability-{name}.png")
        if outdated(written[-1], [weights[method]]):
            pools = pools or load_pools(settings)
            data = pools.split(seed)
            network = build_network(study.settings["model"], data, seed=seed)
            network.load_state_dict(load_weights(weights[method]))
            reliability_diagram(
                predict(network, data.test.inputs), data.test.labels, from_logits=True, bins=_BINS,
                ignore_index=data.ignore_index, path=written[-1], title=title_of(method, METHODS),
            )  # fmt: skip
        multipliers = histories[method].get("multipliers")
        if multipliers is not None and bool((multipliers != multipliers[0]).any()):
            written.append(study.out / f"multipliers-{name}.png")
            if outdated(written[-1], weights.values()):
                errors = {title_of(m, METHODS): history["ece"].tolist() for m, history in histories.items()}
                multiplier_curves(multipliers, path=written[-1], ece=errors)
    return written
