"""The same training in one process and in two, with shards of unequal size: one result."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from constropt.problems.calibration.margin import CALS
from constropt.training import ConstrainedLoss, on_average, samplewise

CLASSES, EPOCHS = 4, 3
pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="torch without distributed")


def data() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 5, generator=draws, dtype=torch.float64) * 4
    labels = torch.randint(0, CLASSES, (30,), generator=draws)
    labels[::7] = -100
    return inputs, labels


def network() -> nn.Module:
    model = nn.Linear(5, CLASSES).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel(), dtype=torch.float64).view_as(parameter))
    return model


def criteria() -> dict[str, ConstrainedLoss]:
    counted = lambda logits, labels: labels >= 0  # noqa: E731

    def cross_entropy(logits, labels):
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    return {
        "cals": CALS(CLASSES, margin=1.0, rho_every=1),
        "average": ConstrainedLoss(
            cross_entropy,
            [
                on_average(lambda z, y: z.square() - 1, shape=(CLASSES,), name="energy"),
                on_average(lambda z, y: z[:, 0], mask=lambda z, y: y == 1, name="of class 1"),
                samplewise(lambda z, y: z[:, 1] - 1, mask=lambda z, y: y != 1, name="not of class 1"),
            ],
            counted=counted,
        ),
    }


def train(criterion: ConstrainedLoss, rows: list[slice]) -> tuple[torch.Tensor, ...]:
    """Full-batch training on this process' rows; the losses, the weights and the duals that come out."""
    inputs, labels = data()
    model = network()
    wrapped = DistributedDataParallel(model) if distributed.is_initialized() else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    mine = [(inputs[r], labels[r]) for r in rows]
    for _ in range(EPOCHS):
        x, y = torch.cat([x for x, _ in mine]), torch.cat([y for _, y in mine])
        optimizer.zero_grad()
        loss = criterion(wrapped(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        criterion.update_duals(wrapped, mine)
    state = [value.flatten().double() for name, value in sorted(criterion.state_dict().items()) if ".mu" in name]
    rhos = [value.flatten().double() for name, value in sorted(criterion.state_dict().items()) if ".rho" in name]
    return torch.stack(losses), model.weight.detach(), torch.cat(state), torch.cat(rhos)


def worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    # 21 samples against 9, in 3 batches against 1
    rows = [slice(0, 8), slice(8, 9), slice(9, 21)] if rank == 0 else [slice(21, 30)]
    for name, criterion in criteria().items():
        torch.save(train(criterion, rows), f"{folder}/{name}_{rank}.pt")
    torch.save(errors(rank), f"{folder}/errors_{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def errors(rank: int) -> list[str]:
    """What each process is told about NaN in one of them, and about loaders that are empty everywhere."""
    criterion, messages = CALS(CLASSES), []
    good, bad = torch.zeros(2, CLASSES), torch.full((2, CLASSES), torch.nan)
    labels = torch.zeros(2, dtype=torch.int64)
    for loader in ([(good, labels), (bad if rank else good, labels)], []):
        try:
            criterion.update_duals(nn.Identity(), loader)
        except ValueError as error:
            messages.append(str(error))
    criterion.update_duals(nn.Identity(), [] if rank else [(good, labels)])  # one empty shard is no error
    return messages


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(worker, args=(port, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("name", ["cals", "average"])
def test_two_processes_equal_one(results, name):
    expected = train(criteria()[name], [slice(0, 30)])
    for rank in range(2):
        found = torch.load(results / f"{name}_{rank}.pt", weights_only=True)
        for got, wanted in zip(found, expected):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    assert expected[2].max() > 1e-3  # the multipliers did move


def test_every_process_is_told(results):
    first, second = (torch.load(results / f"errors_{rank}.pt", weights_only=True) for rank in range(2))
    assert "a batch of another process" in first[0] and "batch 1 (counted from 0)" in second[0]
    assert "empty" in first[1] and "empty" in second[1]


def test_the_same_script_runs_under_torchrun():
    script = str(Path(__file__).with_name("torchrun_script.py"))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = []
    for prefix in ([], command):
        run = subprocess.run(
            [sys.executable, *prefix, script], capture_output=True, text=True, env=environment, timeout=300
        )
        assert run.returncode == 0, run.stderr
        found.append(json.loads(run.stdout.strip().splitlines()[-1]))
    one, two = found
    for name, value in one.items():
        torch.testing.assert_close(torch.tensor(two[name]), torch.tensor(value), rtol=1e-5, atol=1e-6)
    assert max(one["mu"]) > 1e-3
