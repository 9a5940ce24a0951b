"""``constropt train calibration``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constropt.lab.cli import studies
from constropt.lab.cli.shared import DeviceOption, ProgressOption, clean_errors
from constropt.lab.cli.studies import Launch, run_and_show
from constropt.lab.models.small import digits_cnn
from constropt.lab.runs.specs import reference_of
from constropt.lab.studies.calibration.kind import CALIBRATION
from constropt.lab.studies.calibration.study import CalibrationSetup
from constropt.lab.studies.calibration.study_data import DataSettings
from constropt.lab.studies.epochs import TrainingSettings

MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="NAME[KEY=VALUE,...] of ce, mmce, ecp, ls, fl, flsd, cpc, mbls, cals-hr, cals-alm, their variants or"
        " module:factory of a loss; several can be given.",
    ),
]


@clean_errors
def train_calibration(
    out: Annotated[Path, typer.Option(help="The folder of the study; a killed one continues there.")],
    method: MethodsOption = None,
    seeds: studies.SeedsOption = "0",
    data: Annotated[
        str,
        typer.Option(
            help="As for solve, or omniglot:DIR or newsgroups:FILE; with options: omniglot:DIR[size=20],"
            " newsgroups:FILE[length=100,vocabulary=8000]."
        ),
    ] = "digits",
    test_data: Annotated[str | None, typer.Option(help="Where test samples are, if elsewhere.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="module:factory[KEY=VALUE,...]; it gets num_classes, channels, image_size and vocabulary where it"
            " takes them. Default: a small CNN for digits, ResNet-18, DeepLab or GPCN else."
        ),
    ] = None,
    epochs: studies.EpochsOption = 40,
    batch_size: studies.BatchOption = 64,
    optimizer: studies.OptimizerOption = "adamw",
    lr: studies.RateOption = None,
    weight_decay: studies.DecayOption = None,
    schedule: studies.ScheduleOption = "cosine",
    augment: studies.AugmentOption = "none",
    held_out: Annotated[
        float, typer.Option(help="Held out for multipliers and temperatures: a fraction, or how many of each class.")
    ] = 0.2,
    long_tail: Annotated[
        float | None, typer.Option(help="Thin classes out exponentially: ratio of the largest to the smallest.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Of the training split; default: all.")] = None,
    test_samples: Annotated[int | None, typer.Option(min=1, help="Of the test split; default: all.")] = None,
    figures: Annotated[bool, typer.Option(help="Draw reliability diagrams and multipliers (extra plot).")] = True,
    fresh: studies.FreshOption = False,
    device: DeviceOption = "cpu",
    progress: ProgressOption = None,
) -> None:
    """Train with calibration losses, the same split, weights and batches for all; compare before and after scaling."""
    setup = CalibrationSetup(
        data=DataSettings(
            data=data,
            test=test_data,
            held_out=held_out,
            long_tail=long_tail,
            samples=samples,
            test_samples=test_samples,
        ),
        training=TrainingSettings(
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            schedule=schedule,
            augment=augment,
        ),
        model=reference_of(digits_cnn) if model is None and data == "digits" else model,
    )
    run_and_show(CALIBRATION, setup, method or ["ce", "cals-alm"], seeds, Launch(out, figures, fresh, device, progress))
