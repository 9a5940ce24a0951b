"""A kind of study: which methods are trained on what, measured, reported and drawn. Calibration and retrieval are two.
A study of one's own is a :class:`Setup` (data, network, training, figures of a run) and a :class:`StudyKind`, in one
file; :func:`~constropt.lab.studies.catalogue.add_study` brings its tables to the command line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from constropt.lab.runs.specs import RecipeSpec
from constropt.lab.studies.epochs import History, TrainingSettings
from constropt.lab.studies.study import Run, Study, complete, distinct, trained
from constropt.lab.studies.tables import Benchmark, Column, Method, StudyTable, layout, ordered, parse_method, title_of
from constropt.lab.writing import markdown_table, write_json, write_parquet, write_text

Split = TypeVar("Split")
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Setup(ABC, Generic[Split, Network]):
    """What all methods of a study share: data that a seed splits, the network ``model``, the ``training``. ``model`` is
    ``module:factory`` or ``module:factory[KEY=VALUE,...]``; ``None`` is the default for the data.
    """

    training: TrainingSettings
    model: str | None = None

    @abstractmethod
    def splits(self) -> Callable[[int], Split]:
        """Read the data, as far as all seeds share it, and return what splits it by a seed."""

    @abstractmethod
    def network(self, split: Split, seed: int) -> Network:
        """The network with the initial weights of ``seed``; the global generator is left as it was."""

    @abstractmethod
    def loss(self, spec: RecipeSpec, split: Split, network: Network) -> nn.Module:
        """The loss of a method; what it draws comes from the global generator, which the study seeds."""

    @abstractmethod
    def train(self, network: Network, loss: nn.Module, split: Split, run: Run, checkpoint: Path) -> History:
        """Train ``network`` in place from ``run.seed``, continuing from the file ``checkpoint`` if it is there."""

    @abstractmethod
    def measured(self, network: Network, split: Split) -> dict[str, Any]:
        """All figures of a trained network in eval mode, as JSON, with the fingerprint of its data as "data"."""

    @abstractmethod
    def settings(self, split: Split, network: Network) -> dict[str, Any]:
        """All that decides the results, as JSON: a folder of other settings is refused."""

    @abstractmethod
    def located(self, root: Path) -> Setup[Split, Network]:
        """The same with the data folder ``root`` for ``{}`` in the names of data."""


@dataclass(frozen=True)
class StudyKind:
    """A kind of study as a value: its methods by name, what a run's table shows, its figures and thesis tables.

    ``name`` is that of its folder of runs, ``title`` stands over reports, ``what`` names a method in messages.
    ``columns(study)`` are those of reports, ``main`` those that a terminal has room for; ``described`` says data, model
    and training in one line, ``remarks`` what the figures say of the claims, ``notes`` how they are meant.
    ``write_figures`` draws into the study's folder what is not newer than its weights, and returns all paths.
    """

    name: str
    title: str
    what: str
    methods: Mapping[str, Method]
    columns: Callable[[Study], Sequence[Column]]
    main: Sequence[Column]
    described: Callable[[Study], str]
    remarks: Callable[[Study], list[str]]
    notes: str
    write_figures: Callable[[Study], list[Path]]
    benchmarks: Mapping[str, Benchmark] = field(default_factory=dict)
    tables: Mapping[str, StudyTable] = field(default_factory=dict)

    def parse(self, text: str) -> RecipeSpec:
        """A method and options in ``NAME`` or ``NAME[KEY=VALUE,...]``; ``ValueError`` for others, with near names."""
        return parse_method(text, self.methods, self.what)

    def title_of(self, method: str) -> str:
        """The name of a method in a table, its options beside it."""
        return title_of(method, self.methods)

    def run(
        self, setup: Setup[Any, Any], methods: Sequence[str], seeds: Sequence[int], *, out: str | Path,
        device: torch.device | str = "cpu", fresh: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Study:  # fmt: skip
        """Train the network of ``setup`` with each of the ``methods`` from each of the ``seeds``, and measure it.

        The seed draws the split, the initial weights and the order of the batches: all methods have the same. Each run
        leaves its weights, the history of its epochs and its figures in ``out``; a run that is there is not repeated,
        and one that was killed continues after its last epoch. ``progress(run, done, total)`` is called after each
        epoch. Returns all finished runs of the folder, those of earlier calls too.

        Raises ``ValueError`` for unknown methods, before anything is trained, for no methods or seeds, for a folder of
        other settings (``fresh`` removes it), and as reading the data and training do.
        """
        specs, chosen = distinct([self.parse(text) for text in methods], seeds)
        splits = setup.splits()
        first = splits(chosen[0])
        network = setup.network(first, 0)
        for spec in specs:  # what can't be built is said before hours of training
            setup.loss(spec, first, network)

        def one(run: Run, split: Any) -> dict[str, Any]:
            network = setup.network(split, run.seed).to(device)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(run.seed)  # proxies and centers are drawn
                loss = setup.loss(run.spec, split, network)
            trained(run, network, lambda checkpoint: setup.train(network, loss, split, run, checkpoint))
            return setup.measured(network, split)

        return complete(
            specs, chosen, out=Path(out), settings=setup.settings(first, network),
            data=lambda seed: first if seed == chosen[0] else splits(seed), run=one, fresh=fresh, progress=progress,
        )  # fmt: skip

    def main_table(self, study: Study) -> tuple[list[str], list[list[str]]]:
        """Header and lines of the table that a terminal has room for."""
        return layout(study, self.methods, self.main)

    def write_report(self, study: Study) -> list[Path]:
        """Write ``results.md``, ``results.json`` and ``results.parquet``, a row per run, into the study's folder."""
        columns, remarks, found = self.columns(study), self.remarks(study), study.results
        header, lines = layout(study, self.methods, columns)
        text = [f"# {self.title}", "", self.described(study), "", *markdown_table(header, lines), ""]
        text += [f"- {remark}" for remark in [*remarks, self.notes]] + [""]
        runs = [found[m][seed] for m in ordered(list(found), self.methods) for seed in sorted(found[m])]
        cells: dict[str, list[Any]] = {name: [run[name] for run in runs] for name in ("method", "seed")}
        cells |= {"_".join(column.path): [column.of(run) for run in runs] for column in columns}
        paths = [study.out / f"results.{kind}" for kind in ("md", "json", "parquet")]
        write_text(paths[0], text)
        write_json(paths[1], {"settings": study.settings, "remarks": remarks, "runs": runs})
        write_parquet(paths[2], cells)
        return paths
