"""Retrieval as a kind of study: ``constropt train metric``, and Table 2.4, published cross-entropy rows beside ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from constropt.lab.studies.kind import StudyKind
from constropt.lab.studies.metric_learning.methods import METHODS
from constropt.lab.studies.metric_learning.study import KS, RetrievalSetup, RetrievalTraining
from constropt.lab.studies.metric_learning.study_data import RetrievalSettings
from constropt.lab.studies.metric_learning.study_report import MAIN, NOTES, columns, described, remarks, write_figures
from constropt.lab.studies.study import Study
from constropt.lab.studies.tables import STAND_IN, Benchmark, Block, StudyTable, ordered, title_of

_RESNET = "timm:create_model[model_name=resnet50,num_classes=0,pretrained=true]"


@dataclass(frozen=True, kw_only=True)
class RetrievalTable(StudyTable):
    """``published[benchmark]``: Recall@k in per cent of cross-entropy in the thesis, by distance; ResNet-50."""

    published: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)

    def block(self, name: str, title: str, study: Study, methods: Sequence[str]) -> Block:
        """A line per loss and distance, the published ones last."""
        ks = study.settings["ks"]
        by_distance = {kind: [column for column in columns(ks) if column.path[0] == kind] for kind in ("l2", "cosine")}
        header = ["loss", "seeds", "distance", *(f"R@{k}" for k in ks), "MAP@R"]
        lines = []
        for method in ordered([method for method in methods if method in study.results], METHODS):
            runs = list(study.results[method].values())
            head = [title_of(method, METHODS), str(len(runs))]
            lines += [[*head, kind, *(column.text(runs) for column in found)] for kind, found in by_distance.items()]
        for distance, figures in self.published.get(name, {}).items():
            lines.append(["CE (thesis, ResNet-50)", "-", distance, *(f"{value:g}" for value in figures), "-"])
        return Block(f"{title}: {described(study)}", header, lines, remarks(study))


def _pretrained(
    title: str, data: str, training: RetrievalTraining, *, head_norm: bool = True, ks: tuple[int, ...] = KS
) -> Benchmark:
    """A data set of photos, ``KIND:{}/FOLDER``: a pre-trained ResNet-50 whose batch normalisations are held."""
    photos = RetrievalSettings(data)
    setup = RetrievalSetup(data=photos, training=training, model=_RESNET, head_norm=head_norm, frozen=True, ks=ks)
    return Benchmark(title, setup, (data.rpartition("/")[2],))


_PRODUCTS = RetrievalTraining(lr=0.003, momentum=0.99)
_ADAM = RetrievalTraining(epochs=10, optimizer="adam", lr=1e-3, schedule="cosine")
BENCHMARKS: dict[str, Benchmark] = {
    "cub": _pretrained("CUB-200-2011", "cub:{}/CUB_200_2011", RetrievalTraining(lr=0.02), head_norm=False),
    "cars": _pretrained("Cars-196", "cars:{}/cars196", RetrievalTraining(lr=0.05)),
    "sop": _pretrained("Stanford Online Products", "sop:{}/Stanford_Online_Products", _PRODUCTS, ks=(1, 10, 100, 1000)),
    "in-shop": _pretrained("In-Shop", "in-shop:{}/In-shop", _PRODUCTS, ks=(1, 10, 20, 30, 40, 50)),
    # a network without pre-training: nothing to freeze, and Adam, whose step does not depend on a loss's scale; rate
    # and samples a class were best on validation alphabets of other seeds, over four losses
    "omniglot": Benchmark("Omniglot, unseen alphabets", RetrievalSetup(
        data=RetrievalSettings("omniglot:{}/omniglot", unseen=0.375, validation=0.2),
        training=replace(_ADAM, epochs=15, lr=0.01, augment="shift", per_class=8),
    ), ("omniglot",)),
    "digits": Benchmark("digits, unseen classes", RetrievalSetup(data=RetrievalSettings("digits"), training=_ADAM)),
}  # fmt: skip

TABLES: Mapping[str, RetrievalTable] = {
    "table-2.4": RetrievalTable(
        title="Retrieval", benchmarks=tuple(name for name in BENCHMARKS if name != STAND_IN), methods=tuple(METHODS),
        whatever_is_there=True,
        published={
            "cub": {"l2": (67.6, 78.1, 85.6, 91.1, 94.7, 97.2), "cosine": (69.2, 79.2, 86.9, 91.6, 95.0, 97.3)},
            "cars": {"l2": (89.1, 93.7, 96.5, 98.1, 99.0, 99.4), "cosine": (89.3, 93.9, 96.6, 98.4, 99.3, 99.7)},
            "sop": {"l2": (80.8, 91.2, 95.7, 98.1), "cosine": (81.1, 91.7, 96.3, 98.8)},
            "in-shop": {"l2": (90.6, 97.8, 98.5, 98.8, 98.9, 99.0), "cosine": (90.6, 98.0, 98.6, 98.9, 99.1, 99.2)},
        },
    )
}  # fmt: skip


RETRIEVAL = StudyKind(
    name="retrieval", title="Retrieval", what="loss", methods=METHODS,
    columns=lambda study: columns(study.settings["ks"]), main=MAIN, described=described, remarks=remarks, notes=NOTES,
    write_figures=write_figures, benchmarks=BENCHMARKS, tables=TABLES,
)  # fmt: skip
