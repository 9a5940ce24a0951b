"""Table 2.4 of the thesis on what retrieval data there is, the published cross-entropy rows beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from constropt.checks import MissingExtra
from constropt.lab.studies.columns import ordered
from constropt.lab.studies.methods import title_of
from constropt.lab.studies.metric_learning.methods import METHODS, parse_loss
from constropt.lab.studies.metric_learning.study import KS, columns, described, remarks, run_study, write_report
from constropt.lab.studies.metric_learning.study_data import RetrievalSettings
from constropt.lab.studies.metric_learning.study_figures import write_figures
from constropt.lab.studies.metric_learning.training import RetrievalTraining
from constropt.lab.studies.recorded_tables import STAND_IN, Block, full_name, with_data, write_blocks
from constropt.lab.studies.study import Study

TABLES = ("table-2.4",)
_RESNET = "timm:create_model[model_name=resnet50,num_classes=0,pretrained=true]"


@dataclass(frozen=True)
class Benchmark:
    """A data set, network and training; ``{}`` in ``data`` is the data folder, ``folder`` what must be in it.

    ``published``: Recall@k in per cent of cross-entropy in the thesis, by distance; ResNet-50.
    """

    title: str
    data: RetrievalSettings
    training: RetrievalTraining
    folder: str | None = None
    model: str | None = None
    frozen: bool = False
    head_norm: bool = True
    ks: tuple[int, ...] = KS
    published: Mapping[str, tuple[float, ...]] | None = None

    def located(self, root: Path) -> RetrievalSettings:
        """The data settings with the folder filled in."""
        return replace(self.data, data=self.data.data.format(root))

    def present(self, root: Path) -> bool:
        """Whether its folder is there."""
        return self.folder is None or (root / self.folder).exists()


_PRODUCTS = RetrievalTraining(lr=0.003, momentum=0.99)
BENCHMARKS: Mapping[str, Benchmark] = {
    "cub": Benchmark(
        "CUB-200-2011",
        RetrievalSettings("cub:{}/CUB_200_2011"),
        RetrievalTraining(lr=0.02),
        "CUB_200_2011",
        _RESNET,
        frozen=True,
        head_norm=False,
        published={"l2": (67.6, 78.1, 85.6, 91.1, 94.7, 97.2), "cosine": (69.2, 79.2, 86.9, 91.6, 95.0, 97.3)},
    ),
    "cars": Benchmark(
        "Cars-196",
        RetrievalSettings("cars:{}/cars196"),
        RetrievalTraining(lr=0.05),
        "cars196",
        _RESNET,
        frozen=True,
        published={"l2": (89.1, 93.7, 96.5, 98.1, 99.0, 99.4), "cosine": (89.3, 93.9, 96.6, 98.4, 99.3, 99.7)},
    ),
    "sop": Benchmark(
        "Stanford Online Products",
        RetrievalSettings("sop:{}/Stanford_Online_Products"),
        _PRODUCTS,
        "Stanford_Online_Products",
        _RESNET,
        frozen=True,
        ks=(1, 10, 100, 1000),
        published={"l2": (80.8, 91.2, 95.7, 98.1), "cosine": (81.1, 91.7, 96.3, 98.8)},
    ),
    "in-shop": Benchmark(
        "In-Shop",
        RetrievalSettings("in-shop:{}/In-shop"),
        _PRODUCTS,
        "In-shop",
        _RESNET,
        frozen=True,
        ks=(1, 10, 20, 30, 40, 50),
        published={"l2": (90.6, 97.8, 98.5, 98.8, 98.9, 99.0), "cosine": (90.6, 98.0, 98.6, 98.9, 99.1, 99.2)},
    ),
    # a network without pre-training: nothing to freeze, and Adam, whose step does not depend on a loss's scale; rate
    # and samples a class were best on validation alphabets of other seeds, over four losses
    "omniglot": Benchmark(
        "Omniglot, unseen alphabets",
        RetrievalSettings("omniglot:{}/omniglot", unseen=0.375, validation=0.2),
        RetrievalTraining(epochs=15, optimizer="adam", lr=0.01, schedule="cosine", augment="shift", per_class=8),
        "omniglot",
    ),
    "digits": Benchmark(
        "digits, unseen classes",
        RetrievalSettings("digits"),
        RetrievalTraining(epochs=10, optimizer="adam", lr=1e-3, schedule="cosine"),
    ),
}
LOSSES = ("ce", "ce-plain", "spce", "spce-t", "center", "contrastive", "triplet", "ms", "snca", "snca-bank", "nca")
LOSSES += ("proxy-nca", "fastap")


def table_name(name: str) -> str | None:
    """The full name of a table, "2.4" among others; ``None`` for one that is not here."""
    return full_name(name, TABLES)


def reproduce(
    table: str,
    *,
    out: str | Path,
    root: str | Path,
    benchmarks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int | None = None,
    device: torch.device | str = "cpu",
    fresh: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> tuple[list[Block], Path]:
    """Run the ``table`` on each of the :data:`BENCHMARKS` whose data is in the folder ``root``, on digits where there
    is none, and lay it out; returns its blocks and the file that has them.

    The studies are in ``out``, a folder for each benchmark; ``benchmarks`` and ``methods`` replace the default ones.
    Raises ``ValueError`` for unknown names, and as :func:`~constropt.lab.studies.metric_learning.study.run_study`.
    """
    root, out = Path(root).resolve(), Path(out)  # the folder is part of the settings that a run is continued by
    names = list(benchmarks or (name for name in BENCHMARKS if name != STAND_IN))
    tell = warn or (lambda text: None)
    blocks = []
    for name in with_data(names, BENCHMARKS, root, tell, wanted=bool(benchmarks)):
        benchmark = BENCHMARKS[name]
        training = benchmark.training if epochs is None else replace(benchmark.training, epochs=epochs)
        study = run_study(
            methods or LOSSES,
            seeds,
            out=out / name,
            data=benchmark.located(root),
            training=training,
            model=benchmark.model,
            head_norm=benchmark.head_norm,
            frozen=benchmark.frozen,
            ks=benchmark.ks,
            device=device,
            fresh=fresh,
            progress=progress,
        )
        write_report(study)
        try:
            write_figures(study)
        except MissingExtra as error:
            tell(str(error))
        blocks.append(_block(benchmark, study, [str(parse_loss(text)) for text in methods or LOSSES]))
    return blocks, write_blocks(out / f"{table}.md", f"{table}: Retrieval", blocks)


def _block(benchmark: Benchmark, study: Study, losses: Sequence[str]) -> Block:
    """A line per loss and distance, the published ones last."""
    by_distance = {
        name: [column for column in columns(benchmark.ks) if column.path[0] == name] for name in ("l2", "cosine")
    }
    header = ["loss", "seeds", "distance", *(f"R@{k}" for k in benchmark.ks), "MAP@R"]
    lines = []
    for method in ordered([method for method in losses if method in study.results], METHODS):
        runs = list(study.results[method].values())
        for distance, found in by_distance.items():
            title = title_of(parse_loss(method), METHODS)
            lines.append([title, str(len(runs)), distance, *(column.text(runs) for column in found)])
    for distance, figures in (benchmark.published or {}).items():
        lines.append(["CE (thesis, ResNet-50)", "-", distance, *(f"{value:g}" for value in figures), "-"])
    return Block(f"{benchmark.title}: {described(study)}", header, lines, remarks(study))
