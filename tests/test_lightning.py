"""The Lightning callback: the duals after a fit are those of a plain loop."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from constropt.problems.calibration.margin import CALS
from constropt.training.lightning import DualUpdates

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning.pytorch")

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers, loggers and its own dependencies
EPOCHS = 3


def loaders() -> tuple[DataLoader, DataLoader]:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=draws) * 5
    y = torch.randint(0, 3, (40,), generator=draws)
    return DataLoader(TensorDataset(x[:30], y[:30]), 10), DataLoader(TensorDataset(x[30:], y[30:]), 4)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.0))


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model, self.criterion = network(), CALS(3, margin=1.0, rho_every=1)

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, index):
        return self.criterion(self(batch[0]), batch[1])

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, *data, callback, folder):
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, *data)
    return trainer


@pytest.mark.parametrize("given", ["validation", "loader"])
def test_a_fit_equals_the_plain_loop(tmp_path, given):
    train, held_out = loaders()
    module = Module()
    if given == "validation":
        fit(module, train, held_out, callback=DualUpdates(), folder=tmp_path)
    else:
        fit(module, train, callback=DualUpdates("criterion", held_out), folder=tmp_path)
    model, criterion = network(), CALS(3, margin=1.0, rho_every=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(EPOCHS):
        for x, y in train:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        criterion.update_duals(model, held_out)
    torch.testing.assert_close(module.criterion.multipliers, criterion.multipliers)
    torch.testing.assert_close(module.criterion.rho, criterion.rho)
    torch.testing.assert_close(module.model[0].weight, model[0].weight)
    assert criterion.multipliers.max() > 1e-3


def test_it_updates_every_so_many_epochs(tmp_path):
    train, held_out = loaders()
    module = Module()
    fit(module, train, held_out, callback=DualUpdates(every=2), folder=tmp_path)
    assert module.criterion.duals["margin"].updates == 1


def test_what_is_missing_is_named(tmp_path):
    train, held_out = loaders()
    with pytest.raises(ValueError, match="criterion: takes a ConstrainedLoss.*'loss', which is NoneType"):
        fit(Module(), train, held_out, callback=DualUpdates("loss"), folder=tmp_path)
    with pytest.raises(ValueError, match="loader: give"):
        fit(Module(), train, callback=DualUpdates(), folder=tmp_path)
    with pytest.raises(ValueError, match="every: takes"):
        DualUpdates(every=0)
