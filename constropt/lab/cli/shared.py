"""What the commands share: their common options, clean errors, models trained on the spot, progress bars; and of those
that train methods x seeds: where data is, seeds, options of the training, tables.
"""

import functools
import itertools
import os
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from constropt.lab.data.load import KINDS, load_data
from constropt.lab.models.small import digits_cnn, small_cnn, unet
from constropt.lab.models.training import train_classifier, train_segmenter
from constropt.lab.models.weights import load_model, save_weights
from constropt.lab.runs.specs import reference_of
from constropt.lab.studies.kind import Setup, StudyKind
from constropt.lab.writing import terminal_table
from constropt.plotting import require_matplotlib
from constropt.problems.dense_metrics import pixel_accuracy
from constropt.problems.model_calls import logits_of

# by the shape of an image
_DEFAULTS: Mapping[tuple[int, ...], Callable[..., nn.Module]] = {
    (1, 8, 8): digits_cnn, (1, 28, 28): small_cnn, (3, 64, 64): unet,
}  # fmt: skip
EMBEDDED = {"digits": 10, "scenes": 5}  # data that a model is trained on by default, and for how many epochs

Command = TypeVar("Command", bound=Callable[..., Any])
_KINDS = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
DataOption = Annotated[str, typer.Option(help=f"Data set. {_KINDS}.")]
DeviceOption = Annotated[str, typer.Option(help="Where the model runs, as torch names it: cpu, cuda, cuda:1.")]
ProgressOption = Annotated[bool | None, typer.Option(help="Progress bars; by default only in a terminal.")]
SeedOption = Annotated[int, typer.Option(help="Seed of everything that is drawn at random.")]
_KEYWORD = "Any other keyword of the recipes: JSON or text."
KeywordOption = Annotated[list[str] | None, typer.Option("--option", "-o", metavar="KEY=VALUE", help=_KEYWORD)]


def clean_errors(command: Command) -> Command:
    """Turn the errors that bad input raises into one line on stderr and exit code 2."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, ImportError, OSError) as error:
            if os.environ.get("CONSTROPT_DEBUG"):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None

    return guarded  # type: ignore[return-value]


def usable_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: {name!r} is not usable here ({str(error).splitlines()[0]})") from None
    return device


def load_network(
    reference: str | None, weights: Path | None, data: str, device: torch.device, seed: int, progress: bool | None
) -> tuple[nn.Module, str]:
    """The model to run on and a description of it; trained here only where the user names neither model nor weights."""
    if reference is None and weights is None:
        return trained(None, data, device, seed, _default_epochs(data), progress)
    if reference is None:
        reference = _architecture(load_data(data).inputs.shape[1:])
    origin = f" from {weights}" if weights else ""
    return load_model(reference, weights, device=device), f"{reference}{origin}"


def named_networks(
    models: Sequence[str], weights: Sequence[Path], data: str, out: Path, device: torch.device, seed: int,
    progress: bool | None,
) -> tuple[dict[str, nn.Module], dict[str, str]]:  # fmt: skip
    """The networks of a run by name, and what each is: NAME=REFERENCE or REFERENCE, whose last part is then the name.
    ``weights`` are in the order of ``models``. Without models, one is trained and kept in ``out`` for a continued run.
    """
    if weights and len(weights) != len(models):
        counts = f"{len(weights)} for {len(models)}"
        raise ValueError(f"--weights: takes one file per --model in the same order, got {counts}")
    if not models:
        epochs = _default_epochs(data)
        reference = _architecture(load_data(data).inputs.shape[1:])
        path = out / f"trained-{data}-{seed}.safetensors"
        if not path.is_file():
            network, what = trained(None, data, device, seed, epochs, progress)
            save_weights(network, path)
            typer.echo(f"{what}\nwritten to {path}", err=True)
        name = reference.rpartition(":")[2]
        what = f"{reference} trained on {data} for {epochs} epochs with seed {seed}"
        return {name: load_model(reference, path, device=device)}, {name: what}
    networks: dict[str, nn.Module] = {}
    described: dict[str, str] = {}
    for place, text in enumerate(models):
        name, equals, reference = text.partition("=")
        reference = reference if equals else text
        file = weights[place] if weights else None
        name = name if equals else unused_name(reference, file, networks)
        if name in networks:
            raise ValueError(f"--model: the name {name!r} is given twice")
        networks[name] = load_model(reference, file, device=device)
        described[name] = reference
    return networks, described


def _default_epochs(data: str) -> int:
    if data not in EMBEDDED:
        known = f"only for {' and '.join(EMBEDDED)} a model is trained by default"
        raise ValueError(f"--model: needed for data {data!r} ({known})")
    return EMBEDDED[data]


def unused_name(reference: str, weights: Path | None, taken: Container[str]) -> str:
    """A file name for a model that is told from those ``taken``: what it is called, then its weights, then a number.

    >>> unused_name("package.models:small_cnn", Path("robust.pt"), {"small_cnn"})
    'small_cnn-robust'
    """
    text = reference.partition(":")[2] if reference.count(":") > 1 else reference.rpartition(":")[2]
    plain = "".join(c if c.isalnum() or c in "_.-" else "-" for c in text).lstrip("-.")
    names = [plain, *([f"{plain}-{weights.stem}"] if weights else [])]
    numbered = (f"{plain}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain(names, numbered) if name not in taken)


def trained(
    reference: str | None, data: str, device: torch.device, seed: int, epochs: int, progress: bool | None
) -> tuple[nn.Module, str]:
    train, test = (load_data(data, split=split) for split in ("train", "test"))
    reference = reference or _architecture(train.inputs.shape[1:])
    network = load_model(reference, device=device)
    trainer = train_segmenter if train.labels.dim() > 1 else train_classifier
    start = time.perf_counter()
    with bar("training", progress) as advance:
        trainer(network, train.inputs, train.labels, epochs=epochs, seed=seed, progress=lambda e, n, _: advance(e, n))
    seconds = time.perf_counter() - start
    with torch.no_grad():
        predictions = torch.cat([logits_of(network(x.to(device))).argmax(1).cpu() for x in test.inputs.split(100)])
    # no class of a classifier is the value that ignores a pixel of a label map
    accuracy = pixel_accuracy(predictions, test.labels, ignore_index=255 if test.labels.dim() > 1 else None)
    return network, f"{reference} trained for {seconds:.0f} s, test accuracy {accuracy:.1%}"


def _architecture(shape: Sequence[int]) -> str:
    if tuple(shape) not in _DEFAULTS:
        raise ValueError(f"--model: needed for images of shape {tuple(shape)}, for which there is no default")
    return reference_of(_DEFAULTS[tuple(shape)])


@contextmanager
def bar(name: str, shown: bool | None) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, and the function ``(done, total)`` that moves it."""
    with named_bar(name, shown) as advance:
        yield lambda done, total: advance(name, done, total)


@contextmanager
def named_bar(name: str, shown: bool | None) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr, and the function ``(name, done, total)`` that moves and renames it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not (console.is_terminal if shown is None else shown)) as bar:
        task = bar.add_task(escape(name), total=None)
        yield lambda name, done, total: bar.update(task, description=escape(name), completed=done, total=total)


DATA, DEFAULT_FOLDER = "CONSTROPT_DATA", "../shared/data"

SeedsOption = Annotated[str, typer.Option(help="Of what is trained: a run for each, as in 0,1,2.")]
EpochsOption = Annotated[int, typer.Option(min=1, help="Passes over the training part.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Samples of a step.")]
OptimizerOption = Annotated[str, typer.Option(help="sgd, adam or adamw.")]
RateOption = Annotated[float | None, typer.Option(help="Its step size; default: the usual one.")]
DecayOption = Annotated[float | None, typer.Option(help="Default: the usual one.")]
ScheduleOption = Annotated[str, typer.Option(help="Of the step size: cosine, half, steps or constant.")]
AugmentOption = Annotated[str, typer.Option(help="Images changed at random: none, shift or shift-mirror.")]
FreshOption = Annotated[bool, typer.Option(help="Remove the study that is in the folder first.")]


def seeds_of(text: str) -> list[int]:
    """The seeds in "0,1,2".

    >>> seeds_of("0, 2")
    [0, 2]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds: takes whole numbers with commas, as in 0,1,2, got {text!r}") from None


def print_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]], remarks: Sequence[str]) -> None:
    """A table on stdout, the remarks below it."""
    Console().print(terminal_table(title, header, lines, remarks))


@dataclass(frozen=True)
class Launch:
    """Where a study is run and what is shown of it, as typed."""

    out: Path
    figures: bool
    fresh: bool
    device: str
    progress: bool | None


def run_and_show(kind: StudyKind, setup: Setup[Any, Any], methods: Sequence[str], seeds: str, launch: Launch) -> None:
    """Run a study, write its report and figures, and print its main table."""
    if launch.figures:
        require_matplotlib()
    with named_bar("epochs", launch.progress) as shown:
        study = kind.run(
            setup, methods, seeds_of(seeds), out=launch.out, device=usable_device(launch.device), fresh=launch.fresh,
            progress=shown,
        )  # fmt: skip
    paths = kind.write_report(study) + (kind.write_figures(study) if launch.figures else [])
    header, lines = kind.main_table(study)
    print_table(kind.described(study), header, lines, kind.remarks(study))
    typer.echo(f"written to {study.out}: {', '.join(path.name for path in paths)}, and the weights of each run")


def data_folder() -> Path:
    """Where data is looked for unless it is named."""
    return Path(os.environ.get(DATA, DEFAULT_FOLDER))
