"""``constropt train metric``, and Fig. I-1 for ``constropt reproduce``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from constropt.lab.cli.shared import DeviceOption, ProgressOption, clean_errors, named_bar, usable_device
from constropt.lab.cli.studies import (
    AugmentOption,
    BatchOption,
    DecayOption,
    EpochsOption,
    FreshOption,
    OptimizerOption,
    RateOption,
    ScheduleOption,
    SeedsOption,
    data_folder,
    print_table,
    seeds_of,
    show_study,
)
from constropt.lab.data.load import load_data
from constropt.lab.runs.references import load_reference
from constropt.plotting import require_matplotlib

_PACKAGE = "constropt.problems.metric_learning"  # by name: the library does not import its own problems
_FIGURE_SAMPLES = 6000


@clean_errors
def train_metric(
    out: Annotated[Path, typer.Option(help="The folder of the study; a killed one continues there.")],
    loss: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME[KEY=VALUE,...] of ce, ce-plain, spce, spce-t, center, contrastive, triplet, ms, snca, snca-bank,"
            " nca, proxy-nca, fastap or module:factory of a loss; several can be given. Default: ce."
        ),
    ] = None,
    seeds: SeedsOption = "0",
    data: Annotated[
        str,
        typer.Option(
            help="As for solve, or omniglot:DIR, cub:DIR, cars:DIR, sop:DIR, in-shop:DIR; with the side of the images"
            " in brackets: omniglot:DIR[size=28]."
        ),
    ] = "digits",
    unseen: Annotated[
        float, typer.Option(help="Fraction of the classes (Omniglot: alphabets) to search, where the data says none.")
    ] = 0.4,
    validation: Annotated[
        float, typer.Option(help="Fraction of the other classes that is looked at after each epoch, not trained on.")
    ] = 0.0,
    model: Annotated[
        str | None,
        typer.Option(
            help="module:factory[KEY=VALUE,...] of a feature extractor, as"
            " timm:create_model[model_name=resnet50,pretrained=true,num_classes=0]. Default: four small convolutions."
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A file of weights for it.")] = None,
    head_norm: Annotated[bool, typer.Option(help="A batch normalisation without scale and bias on top.")] = True,
    frozen: Annotated[
        bool, typer.Option(help="Hold the batch normalisations of the model; for one that is pre-trained.")
    ] = False,
    epochs: EpochsOption = 30,
    batch_size: BatchOption = 128,
    per_class: Annotated[
        int, typer.Option(min=0, help="Samples of a class in the batches of losses that need pairs; 0: as they come.")
    ] = 4,
    optimizer: OptimizerOption = "sgd",
    lr: RateOption = 0.02,
    momentum: Annotated[float, typer.Option(help="Nesterov's, of sgd.")] = 0.0,
    weight_decay: DecayOption = None,
    schedule: ScheduleOption = "constant",
    augment: AugmentOption = "none",
    figures: Annotated[bool, typer.Option(help="Draw maps of the embeddings (extra plot).")] = True,
    fresh: FreshOption = False,
    device: DeviceOption = "cpu",
    progress: ProgressOption = None,
) -> None:
    """Train an embedding by the recipe of Sec. 2.5.3 and search classes that it has not seen.

    Defaults are those of CUB: SGD at 0.02 without momentum. Cars: --lr 0.05; SOP and In-Shop: --lr 0.003 --momentum
    0.99. A network from scratch learns faster by --optimizer adam --lr 0.001 --schedule cosine.
    """
    settings = _load("study_data:RetrievalSettings")(data=data, unseen=unseen, validation=validation)
    training = _load("training:RetrievalTraining")(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule,
        augment=augment,
        momentum=momentum,
        per_class=per_class or None,
    )
    if figures:
        require_matplotlib()
    with named_bar("epochs", progress) as shown:
        study = _load("study:run_study")(
            loss or ["ce"],
            seeds_of(seeds),
            out=out,
            data=settings,
            training=training,
            model=model,
            weights=weights,
            head_norm=head_norm,
            frozen=frozen,
            device=usable_device(device),
            fresh=fresh,
            progress=shown,
        )
    show_study(study, "metric_learning.study", "metric_learning.study_figures" if figures else None)


def reproduce_figure(
    data: str | None,
    out: Path | None,
    *,
    samples: int | None,
    epochs: int | None,
    seed: int,
    device: str,
    progress: bool | None,
) -> None:
    """Draw Fig. I-1: cross-entropy and SPCE over the epochs."""
    folder = out or Path("out") / "figure-I-1"
    if data is None:
        mnist = data_folder() / "mnist"
        data = f"mnist:{mnist}" if mnist.is_dir() else "digits"
        if data == "digits":
            typer.echo(f"note: no {mnist}; running on digits instead", err=True)
    require_matplotlib()
    train, validation = (load_data(data, split=split) for split in ("train", "test"))
    count = _FIGURE_SAMPLES if samples is None else samples
    train, validation = (type(part)(part.inputs[:count], part.labels[:count]) for part in (train, validation))
    settings = _load("curves:SETTINGS")
    with named_bar("epochs", progress) as shown:
        found = _load("curves:figure_one")(
            train,
            validation,
            out=folder,
            settings=settings if epochs is None else replace(settings, epochs=epochs),
            seed=seed,
            device=usable_device(device),
            progress=shown,
        )
    header = ["loss", "first epoch", "last epoch", "first accuracy", "last accuracy"]
    lines = [
        [name, *(f"{curve['loss'][place]:.4f}" for place in (0, -1)), *(f"{curve['accuracy'][i]:.2%}" for i in (0, -1))]
        for name, curve in found.items()
    ]
    print_table(f"figure-I-1: {data}, {len(train.labels)} samples", header, lines, [])
    typer.echo(f"written to {folder}: figure-I-1.png, figure-I-1.json")


def _load(name: str) -> Any:
    return load_reference(f"{_PACKAGE}.{name}", what="metric learning")
