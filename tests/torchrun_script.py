"""A training script as a user writes it, for one process or for torchrun; prints losses and duals."""

import json
import os

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from constropt.problems.calibration import CALS

several = "RANK" in os.environ
if several:
    distributed.init_process_group("gloo")
rank = distributed.get_rank() if several else 0

draws = torch.Generator().manual_seed(0)
inputs, labels = torch.randn(36, 6, generator=draws) * 3, torch.randint(0, 3, (36,), generator=draws)
# two thirds of the data in the first process
mine = (slice(0, 24) if rank == 0 else slice(24, 36)) if several else slice(0, 36)
train, held_out = (inputs[mine], labels[mine]), [(inputs[mine][::2], labels[mine][::2])]

torch.manual_seed(0)
model: nn.Module = nn.Linear(6, 3)
model = DistributedDataParallel(model) if several else model
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = CALS(num_classes=3, margin=1.0, rho_every=2)
losses = []
for _ in range(5):
    loss = criterion(model(train[0]), train[1])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    criterion.update_duals(model, held_out)
    losses.append(loss.item())
if rank == 0:
    print(json.dumps({"losses": losses, "mu": criterion.multipliers.tolist(), "rho": criterion.rho.tolist()}))
if several:
    del model  # before its process group, whose threads must not outlive the interpreter
    distributed.barrier()
    distributed.destroy_process_group()
