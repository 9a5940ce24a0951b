"""One batch of one cell in one file: complete or absent, and recognised as this run's or computed again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from constropt.files import replacing
from constropt.lab.attacks.columns import own_distance_of
from constropt.lab.attacks.run import BatchResult
from constropt.lab.runs.manifest import SHARDS

_X = "adversarial"
_COLUMN = "column."
_NOTE = "constropt"


@dataclass(frozen=True)
class Shard:
    """A batch as read back: columns (``status`` as codes), passes, and the distance that the recipe itself minimises.

    ``backwards`` is ``None`` where they could not be counted, ``own_distance`` where the recipe does not say.
    """

    columns: dict[str, np.ndarray]
    forwards: int
    backwards: int | None
    own_distance: str | None


def shard_path(out: Path, model: str, cell: str, batch: int) -> Path:
    """Where the shard of a batch lies."""
    return out / SHARDS / model / cell / f"{batch:05d}.safetensors"


def batch_rows(samples: int, batch_size: int) -> list[tuple[int, int]]:
    """The first sample of every batch, and the one after its last.

    >>> batch_rows(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + batch_size, samples)) for start in range(0, samples, batch_size)]


def write_shard(path: Path, run: str, rows: tuple[int, int], batch: BatchResult) -> None:
    """Write a batch of the run with digest ``run``; what a killed process left of it before is removed."""
    for stale in path.parent.glob(f".{path.stem}-unfinished-*") if path.parent.is_dir() else ():
        stale.unlink(missing_ok=True)
    columns = {name: values for name, values in batch.columns.items() if name != "status"}
    # clones: the distance is one of the norms, and no two tensors of a file may share memory
    tensors = {_COLUMN + name: torch.from_numpy(values).clone() for name, values in columns.items()}
    tensors[_COLUMN + "index"] = torch.arange(*rows)
    tensors[_COLUMN + "status"] = batch.solution.status.detach().cpu().to(torch.int8).contiguous()
    tensors[_X] = batch.solution.x.detach().cpu().contiguous()
    own = own_distance_of(batch.solution)
    note = {
        "run": run,
        "rows": list(rows),
        "forwards": batch.forwards,
        "backwards": batch.backwards,
        "own_distance": getattr(own, "name", None),
    }
    with replacing(path) as unfinished:
        # one entry: safetensors writes several in any order, and equal shards are to be equal files
        save_file(tensors, unfinished, metadata={_NOTE: json.dumps(note, sort_keys=True)})


def is_complete(path: Path, run: str, rows: tuple[int, int]) -> bool:
    """Whether ``path`` holds these rows of this run, whole; not so for a truncated file or one of another run."""
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {}).get(_NOTE, "{}"))
            names = set(file.keys())
            return (
                note.get("run") == run
                and note.get("rows") == list(rows)
                and {_X, _COLUMN + "success", _COLUMN + "index"} <= names
                and file.get_slice(_X).get_shape()[0] == rows[1] - rows[0]
            )
    except (SafetensorError, OSError, json.JSONDecodeError):
        return False


def read_shard(path: Path) -> Shard:
    """The columns of a complete shard; :func:`read_adversarial` reads its images."""
    with safe_open(path, framework="pt") as file:
        note = json.loads(file.metadata()[_NOTE])
        names = sorted(name for name in file.keys() if name.startswith(_COLUMN))  # noqa: SIM118
        columns = {name.removeprefix(_COLUMN): file.get_tensor(name).numpy() for name in names}
    return Shard(columns, note["forwards"], note["backwards"], note["own_distance"])


def read_adversarial(paths: Sequence[Path]) -> Tensor:
    """The perturbed inputs of several shards, one after the other."""
    parts = []
    for path in paths:
        with safe_open(path, framework="pt") as file:
            parts.append(file.get_tensor(_X))
    return torch.cat(parts)
