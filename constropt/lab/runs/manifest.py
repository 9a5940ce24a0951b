"""What a run's folder was made with, so that another command never mixes its results with those that are there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from constropt.files import replacing

FILE = "manifest.json"
SHARDS = "shards"
FORMAT = 1


def fingerprint(*tensors: Tensor) -> str:
    """SHA-256 over type, shape and bytes of the tensors: equal exactly where they are.

    >>> import torch
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
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name}:{fingerprint(value)};".encode())
    return digest.hexdigest()


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
        more = f"; and {len(found) - 6} more" if len(found) > 6 else ""
        raise ValueError(
            f"out: {out} holds a run with other settings: {'; '.join(found[:6])}{more}. Take another folder, or --fresh"
            " to remove that run"
        )
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


class _Absent:
    pass


_ABSENT = _Absent()


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
