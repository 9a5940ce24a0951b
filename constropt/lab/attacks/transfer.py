"""Perturbed inputs that another run found, to be tried on the models of this one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from constropt.lab.data.load import load_data
from constropt.lab.runs.manifest import FILE, SHARDS, fingerprint
from constropt.lab.runs.shards import read_adversarial


def load_transfer(source: str | Path, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The perturbed inputs in ``source`` by where they come from, for the clean ``inputs`` and their ``labels``.

    ``source`` is the folder of a complete run, where every recipe on every model counts, or a safetensors file with
    ``inputs`` and ``labels`` as ``constropt solve --out`` writes them. Raises ``ValueError`` for anything else and for
    one of other samples.
    """
    source = Path(source)
    if not source.is_dir():
        data = load_data(f"safetensors:{source}")
        count = len(labels)
        if len(data.labels) < count or not torch.equal(data.labels[:count], labels.cpu()):
            raise ValueError(f"transfer-from: {source} holds other samples than these {count}: their labels differ")
        return {source.stem: data.inputs[:count]}
    manifest = source / FILE
    if not manifest.is_file():
        raise ValueError(f"transfer-from: {source} has no {FILE}: it is no folder of `constropt evaluate`")
    if json.loads(manifest.read_text(encoding="utf-8")).get("inputs") != fingerprint(inputs, labels):
        raise ValueError(f"transfer-from: {source} was made on other samples than these {len(inputs)}")
    found: dict[str, Tensor] = {}
    for folder in sorted(path for path in (source / SHARDS).glob("*/*") if path.is_dir()):
        images = read_adversarial(sorted(folder.glob("[!.]*.safetensors")))
        if len(images) != len(inputs):
            raise ValueError(f"transfer-from: {source} is not complete: {folder.name} lacks batches; run it to its end")
        found[f"{folder.parent.name} by {folder.name.rpartition('-')[0]}"] = images
    if not found:
        raise ValueError(f"transfer-from: {source} holds no batches yet")
    return found
