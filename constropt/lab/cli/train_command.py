"""``constropt train classifier``, ``constropt train calibration`` and ``constropt train metric``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from constropt.lab.cli.calibration_command import train_calibration
from constropt.lab.cli.retrieval_command import train_metric
from constropt.lab.cli.shared import (
    DataOption,
    DeviceOption,
    ProgressOption,
    SeedOption,
    clean_errors,
    trained,
    usable_device,
)
from constropt.lab.models.weights import save_weights

app = typer.Typer(no_args_is_help=True, help="Train models to run recipes on.", rich_markup_mode=None)
app.command("calibration")(train_calibration)
app.command("metric")(train_metric)


@app.command("classifier")
@clean_errors
def train_classifier(
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    data: DataOption = "digits",
    model: Annotated[str | None, typer.Option(help="module:factory; default: a small CNN by image size.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 20,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    progress: ProgressOption = None,
) -> None:
    """Train a classifier on the training split and save its weights."""
    if out.suffix != ".safetensors":
        raise ValueError(f"--out: takes a file that ends in .safetensors, got {out}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, described = trained(model, data, usable_device(device), seed, epochs, progress)
    save_weights(network, out)
    typer.echo(f"{described}\nwritten to {out}")
