"""A run's folder: what it was made with, so that another command never mixes its results with those that are there, and
its shards, one batch of one cell in one file: complete or absent, and recognised as this run's or computed again.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from constropt.files import replacing
from constropt.lab.attacks.columns import own_distance_of
from constropt.lab.attacks.run import BatchResult

FILE = "manifest.json"
SHARDS = "shards"
FORMAT = 1


def fingerprint(*tensors: Tensor) -> str:
    """SHA-256 over type, shape and bytes of the tensors: equal exactly where they are.

    >>> fingerprint(torch.zeros(2, 3)) == fingerprint(torch.zeros(3, 2))
    False
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{flat.dtype}{tuple(flat.shape)};".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_fingerprint(model: Callable[..., Any]) -> str:
    """SHA-256 of a module's state, names included; of nothing for a callable without one."""
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    entries = (f"{name}:{fingerprint(value)};" for name, value in sorted(state.items()))
    return hashlib.sha256("".join(entries).encode()).hexdigest()


def open_run(out: Path, settings: Mapping[str, Any], *, fresh: bool = False) -> str:
    """Make ``out`` the folder of the run with these ``settings``, or continue it; returns the digest of the settings.
    ``fresh`` removes the shards and the manifest that are there. Raises ``ValueError`` for a folder of other settings,
    naming each that differs, for shards without a manifest, and for a manifest that cannot be read.
    """
    settings = json.loads(json.dumps({"format": FORMAT, **settings}))  # as it will be read back
    path = out / FILE
    if fresh:
        shutil.rmtree(out / SHARDS, ignore_errors=True)
        path.unlink(missing_ok=True)
    if not path.exists():
        if (out / SHARDS).exists():
            raise ValueError(f"out: {out} holds shards but no {FILE}; take another folder, or --fresh to begin anew")
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"out: cannot read {path} ({error}); take another folder, or --fresh") from None
    found = differences(before, settings)
    if found:
        named = "; ".join([*found[:6], *([f"and {len(found) - 6} more"] if len(found) > 6 else [])])
        cure = "Take another folder, or --fresh to remove that run"
        raise ValueError(f"out: {out} holds a run with other settings: {named}. {cure}")
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Each leaf at which two nested settings differ, in words.

    >>> differences({"samples": 5, "models": [{"weights": "a"}]}, {"samples": 6, "models": [{"weights": "a"}]})
    ['samples: 5 there, 6 here']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        inner = [(f"{where}.{key}".lstrip("."), before.get(key, _ABSENT), now.get(key, _ABSENT)) for key in keys]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        inner = [(f"{where}[{index}]", old, new) for index, (old, new) in enumerate(zip(before, now))]
    else:
        return [] if before == now else [f"{where}: {_short(before)} there, {_short(now)} here"]
    return [text for place, old, new in inner for text in differences(old, new, place)]


_ABSENT = object()


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


_X = "adversarial"
_COLUMN = "column."
_NOTE = "constropt"


@dataclass(frozen=True)
class Shard:
    """A batch as read back: columns (``status`` as codes), passes (``backwards`` ``None`` where they could not be
    counted), and the distance that the recipe itself minimises, ``None`` where it does not say.
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
    own = getattr(own_distance_of(batch.solution), "name", None)
    passes = {"forwards": batch.forwards, "backwards": batch.backwards}
    note = {"run": run, "rows": list(rows), **passes, "own_distance": own}
    with replacing(path) as unfinished:
        # one entry: safetensors writes several in any order, and equal shards are to be equal files
        save_file(tensors, unfinished, metadata={_NOTE: json.dumps(note, sort_keys=True)})


def is_complete(path: Path, run: str, rows: tuple[int, int]) -> bool:
    """Whether ``path`` holds these rows of this run, whole; not so for a truncated file or one of another run."""
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {}).get(_NOTE, "{}"))
            own = note.get("run") == run and note.get("rows") == list(rows)
            whole = own and {_X, _COLUMN + "success", _COLUMN + "index"} <= set(file.keys())
            return whole and file.get_slice(_X).get_shape()[0] == rows[1] - rows[0]
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
