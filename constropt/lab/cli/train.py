"""``constropt train classifier``, ``constropt train calibration`` and ``constropt train metric``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from constropt.lab.cli import shared
from constropt.lab.models.small import digits_cnn
from constropt.lab.models.weights import save_weights
from constropt.lab.runs.specs import reference_of
from constropt.lab.studies.calibration.kind import CALIBRATION
from constropt.lab.studies.calibration.study import CalibrationSetup
from constropt.lab.studies.calibration.study_data import DataSettings
from constropt.lab.studies.epochs import TrainingSettings
from constropt.lab.studies.metric_learning.kind import RETRIEVAL
from constropt.lab.studies.metric_learning.study import RetrievalSetup, RetrievalTraining
from constropt.lab.studies.metric_learning.study_data import RetrievalSettings

_METHODS = (
    "NAME[KEY=VALUE,...] of ce, mmce, ecp, ls, fl, flsd, cpc, mbls, cals-hr, cals-alm, their variants or module:factory"
    " of a loss; several can be given."
)
MethodsOption = Annotated[list[str] | None, typer.Option("--method", help=_METHODS)]
OutOption = Annotated[Path, typer.Option(help="The folder of the study; a killed one continues there.")]


@shared.clean_errors
def train_calibration(
    out: OutOption, method: MethodsOption = None, seeds: shared.SeedsOption = "0",
    data: Annotated[str, typer.Option(
        help="As for solve, or omniglot:DIR or newsgroups:FILE; with options: omniglot:DIR[size=20],"
        " newsgroups:FILE[length=100,vocabulary=8000].")] = "digits",
    test_data: Annotated[str | None, typer.Option(help="Where test samples are, if elsewhere.")] = None,
    model: Annotated[str | None, typer.Option(
        help="module:factory[KEY=VALUE,...]; it gets num_classes, channels, image_size and vocabulary where it"
        " takes them. Default: a small CNN for digits, ResNet-18, DeepLab or GPCN else.")] = None,
    epochs: shared.EpochsOption = 40, batch_size: shared.BatchOption = 64,
    optimizer: shared.OptimizerOption = "adamw", lr: shared.RateOption = None,
    weight_decay: shared.DecayOption = None, schedule: shared.ScheduleOption = "cosine",
    augment: shared.AugmentOption = "none",
    held_out: Annotated[float, typer.Option(
        help="Held out for multipliers and temperatures: a fraction, or how many of each class.")] = 0.2,
    long_tail: Annotated[float | None, typer.Option(
        help="Thin classes out exponentially: ratio of the largest to the smallest.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Of the training split; default: all.")] = None,
    test_samples: Annotated[int | None, typer.Option(min=1, help="Of the test split; default: all.")] = None,
    figures: Annotated[bool, typer.Option(help="Draw reliability diagrams and multipliers (extra plot).")] = True,
    fresh: shared.FreshOption = False, device: shared.DeviceOption = "cpu", progress: shared.ProgressOption = None,
) -> None:  # fmt: skip
    """Train with calibration losses, the same split, weights and batches for all; compare before and after scaling."""
    setup = CalibrationSetup(
        data=DataSettings(data, test_data, held_out, long_tail, samples, test_samples),
        training=TrainingSettings(epochs, batch_size, optimizer, lr, weight_decay, schedule, augment),
        model=reference_of(digits_cnn) if model is None and data == "digits" else model,
    )
    launch = shared.Launch(out, figures, fresh, device, progress)
    shared.run_and_show(CALIBRATION, setup, method or ["ce", "cals-alm"], seeds, launch)


@shared.clean_errors
def train_metric(
    out: OutOption,
    loss: Annotated[list[str] | None, typer.Option(
        help="NAME[KEY=VALUE,...] of ce, ce-plain, spce, spce-t, center, contrastive, triplet, ms, snca, snca-bank,"
        " nca, proxy-nca, fastap or module:factory of a loss; several can be given. Default: ce.")] = None,
    seeds: shared.SeedsOption = "0",
    data: Annotated[str, typer.Option(
        help="As for solve, or omniglot:DIR, cub:DIR, cars:DIR, sop:DIR, in-shop:DIR; with the side of the images"
        " in brackets: omniglot:DIR[size=28].")] = "digits",
    unseen: Annotated[float, typer.Option(
        help="Fraction of the classes (Omniglot: alphabets) to search, where the data says none.")] = 0.4,
    validation: Annotated[float, typer.Option(
        help="Fraction of the other classes that is looked at after each epoch, not trained on.")] = 0.0,
    model: Annotated[str | None, typer.Option(
        help="module:factory[KEY=VALUE,...] of a feature extractor, as"
        " timm:create_model[model_name=resnet50,pretrained=true,num_classes=0]. Default: four small convolutions.",
    )] = None,
    weights: Annotated[Path | None, typer.Option(help="A file of weights for it.")] = None,
    head_norm: Annotated[bool, typer.Option(help="A batch normalisation without scale and bias on top.")] = True,
    frozen: Annotated[bool, typer.Option(
        help="Hold the batch normalisations of the model; for one that is pre-trained.")] = False,
    epochs: shared.EpochsOption = 30, batch_size: shared.BatchOption = 128,
    per_class: Annotated[int, typer.Option(
        min=0, help="Samples of a class in the batches of losses that need pairs; 0: as they come.")] = 4,
    optimizer: shared.OptimizerOption = "sgd", lr: shared.RateOption = 0.02,
    momentum: Annotated[float, typer.Option(help="Nesterov's, of sgd.")] = 0.0,
    weight_decay: shared.DecayOption = None, schedule: shared.ScheduleOption = "constant",
    augment: shared.AugmentOption = "none",
    figures: Annotated[bool, typer.Option(help="Draw maps of the embeddings (extra plot).")] = True,
    fresh: shared.FreshOption = False, device: shared.DeviceOption = "cpu", progress: shared.ProgressOption = None,
) -> None:  # fmt: skip
    """Train an embedding by the recipe of Sec. 2.5.3 and search classes that it has not seen.

    Defaults are those of CUB: SGD at 0.02 without momentum. Cars: --lr 0.05; SOP and In-Shop: --lr 0.003 --momentum
    0.99. A network from scratch learns faster by --optimizer adam --lr 0.001 --schedule cosine.
    """
    setup = RetrievalSetup(
        data=RetrievalSettings(data=data, unseen=unseen, validation=validation),
        training=RetrievalTraining(
            epochs, batch_size, optimizer, lr, weight_decay, schedule, augment, momentum, per_class or None
        ),
        model=model, weights=weights, head_norm=head_norm, frozen=frozen,
    )  # fmt: skip
    shared.run_and_show(RETRIEVAL, setup, loss or ["ce"], seeds, shared.Launch(out, figures, fresh, device, progress))


app = typer.Typer(no_args_is_help=True, help="Train models to run recipes on.", rich_markup_mode=None)
app.command("calibration")(train_calibration)
app.command("metric")(train_metric)


@app.command("classifier")
@shared.clean_errors
def train_classifier(
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")], data: shared.DataOption = "digits",
    model: Annotated[str | None, typer.Option(help="module:factory; default: a small CNN by image size.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 20,
    seed: shared.SeedOption = 0, device: shared.DeviceOption = "cpu", progress: shared.ProgressOption = None,
) -> None:  # fmt: skip
    """Train a classifier on the training split and save its weights."""
    if out.suffix != ".safetensors":
        raise ValueError(f"--out: takes a file that ends in .safetensors, got {out}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, described = shared.trained(model, data, shared.usable_device(device), seed, epochs, progress)
    save_weights(network, out)
    typer.echo(f"{described}\nwritten to {out}")
