"""The command line: ``constropt solve``, ``evaluate``, ``reproduce``, ``train classifier``, ``recipes``.

Nothing that is typed is executed, except that the modules named are imported. A user's error is one line and exit code
2; ``CONSTROPT_DEBUG=1`` shows where it arose instead.
"""

from __future__ import annotations

import inspect
import re
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Annotated

import typer

from constropt.lab.cli.evaluate import evaluate_command
from constropt.lab.cli.reproduce import reproduce_command
from constropt.lab.cli.shared import clean_errors
from constropt.lab.cli.solve import solve_command
from constropt.lab.cli.train import app as train_app
from constropt.problems.references import load_recipe, recipe_entries

PLUGINS = "constropt.lab"
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command("solve")(solve_command)
app.command("evaluate")(evaluate_command)
app.command("reproduce")(reproduce_command)
app.add_typer(train_app, name="train")


def main() -> None:
    """The script ``constropt``; entry points of the group ``constropt.lab``, adding studies and formats, load first."""
    for entry in entry_points(group=PLUGINS):
        entry.load()
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"constropt {version('constropt')}")
        except PackageNotFoundError:
            typer.echo("constropt (not installed)")
        raise typer.Exit


@app.callback()
def _app(
    _: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Its version.")] = False,
) -> None:
    """Constrained optimization on PyTorch: run attacks and other recipes on your models and data."""


@app.command()
@clean_errors
def recipes() -> None:
    """List the installed recipes."""
    entries = recipe_entries()
    if not entries:
        raise ValueError("no recipes are registered; is constropt installed (pip install -e .)?")
    for name, entry in entries.items():
        try:
            text = (inspect.getdoc(load_recipe(name)) or "").partition("\n")[0]
            text = re.sub(r":\w+:`~?([\w.]*\.)?([^`]*)`", r"\2", text).replace("``", "")
        except ValueError as error:
            text = f"not available: {error}"
        typer.echo(f"{name:14} {text} [{entry.value}]")
