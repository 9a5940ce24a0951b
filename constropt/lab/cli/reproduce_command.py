"""``constropt reproduce table-4.1``: the tables of the thesis on small models, or on those that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from constropt.lab.cli.calibration_command import MethodsOption
from constropt.lab.cli.evaluate_command import FreshOption, ModelsOption, ShardOption, ShardsOption, WeightsOption
from constropt.lab.cli.shared import DeviceOption, ProgressOption, SeedOption, clean_errors
from constropt.lab.cli.studies import DATA, DEFAULT_FOLDER, SeedsOption
from constropt.lab.cli.table_kinds import Request, table_kinds
from constropt.lab.runs.table_names import named_table


@clean_errors
def reproduce_command(
    context: typer.Context,
    table: Annotated[
        str,
        typer.Argument(
            help="table-2.4, table-3.1 to table-3.6, table-4.1, table-4.2, table-6.1 to 6.3, table-V-1 to V-3; or"
            " figure-I-1."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; default: out/TABLE, out/calibration, out/retrieval.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="As for solve; of what is trained (2.4, 6.1 to V-3) names of data sets, with commas. Default: what the"
            f" folder {DATA} ({DEFAULT_FOLDER}) has, else digits."
        ),
    ] = None,
    model: ModelsOption = None,
    weights: WeightsOption = None,
    samples: Annotated[int | None, typer.Option(min=1, help="The first of the test split; 100 by default.")] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Budgets above are cut to this; 90000 cuts none (hours to days).")
    ] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples solved together, and lost together by a kill.")] = 100,
    signs: Annotated[bool, typer.Option(help="Look for signs that the figures mislead.")] = True,
    shards: ShardsOption = 1,
    shard: ShardOption = None,
    fresh: FreshOption = False,
    seed: SeedOption = 0,
    method: MethodsOption = None,
    seeds: SeedsOption = "0,1,2",
    epochs: Annotated[int | None, typer.Option(min=1, help="Of what is trained; default: the table's.")] = None,
    device: DeviceOption = "cpu",
    progress: ProgressOption = None,
) -> None:
    """Run a table of the thesis and print it with the published figures; a killed run continues."""
    kinds = table_kinds()
    name = named_table(table, kinds)
    kind = kinds[name]
    for option in sorted(frozenset().union(*(other.options for other in kinds.values())) - kind.options):
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"--{option.replace('_', '-')}: not an option of {name}")
    request = Request(
        out=out,
        data=data,
        models=model or [],
        weights=weights or [],
        samples=samples,
        steps=steps,
        batch_size=batch_size,
        signs=signs,
        shards=shards,
        shard=shard,
        fresh=fresh,
        seed=seed,
        methods=method or [],
        seeds=seeds,
        epochs=epochs,
        device=device,
        progress=progress,
    )
    kind.run(name, request)
