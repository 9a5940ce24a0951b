"""Each sign that figures mislead, on a model made to show it, and silent on an honest one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import nearest_mean, sign_steps
from torch import nn

from constropt.lab import load_data, round_to_8_bits
from constropt.lab.attacks.signs import (
    fails_unbounded,
    left_in_training_mode,
    noise_beats,
    outside_bounds,
    probabilities,
    stochastic,
    success_falls,
    transfer_beats,
    zero_gradients,
)
from constropt.modes import evaluating
from constropt.problems.attacks import pgd


class Steps(nn.Module):
    """The inner model on inputs cut to four levels: no gradient leads through the rounding."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner((4 * x).round() / 4 + 0 * x)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module, change) -> None:
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, x):
        return self.change(self.inner(x))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return nearest_mean().eval()


@pytest.fixture(scope="module")
def data():
    inputs, labels = load_data("digits")
    return inputs[:60], labels[:60]


def test_an_honest_model_shows_nothing(model, data):
    inputs, labels = data
    distances = np.full(60, 0.05)
    found = [
        left_in_training_mode(model),
        outside_bounds(inputs),
        stochastic(model, inputs),
        probabilities(model, inputs),
        zero_gradients(model, inputs, labels),
        transfer_beats(model, inputs, labels, inputs, distances, "l2"),
        noise_beats(model, inputs, labels, distances, "l2"),
        fails_unbounded(pgd, model, inputs, labels),
    ]
    assert found == [None] * len(found)


def test_modules_left_in_training_mode(model):
    forgotten = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)).eval()
    forgotten[1].train()
    sign = left_in_training_mode(forgotten, "net")
    assert sign is not None and str(sign).startswith("net: has 1 of 4 modules in training mode (Dropout among it)")
    with evaluating(forgotten):
        assert left_in_training_mode(forgotten) is None
    assert forgotten[1].training and not forgotten[2].training


def test_inputs_outside_the_unit_interval(data):
    sign = outside_bounds((data[0] - 0.1) / 0.3)
    assert sign is not None and "60 of 60 inputs leave [0, 1]" in sign.message
    assert outside_bounds(data[0] * 255, (0.0, 255.0)) is None


def test_answers_at_random(model, data):
    noisy = Wrapped(model, lambda z: z + torch.randn_like(z))
    sign = stochastic(noisy, data[0])
    assert sign is not None and "at random" in sign.message
    assert stochastic(Wrapped(model, lambda z: z + 1e-6 * torch.randn_like(z)), data[0]) is None


def test_probabilities(model, data):
    assert probabilities(Wrapped(model, lambda z: z.softmax(1)), data[0]) is not None
    assert probabilities(Wrapped(model, lambda z: z.log_softmax(1)), data[0]) is None


def test_zero_gradients_tell_hidden_from_saturated(model, data):
    hidden = zero_gradients(Wrapped(model, lambda z: z.round() + 0 * z.detach()), *data)
    assert hidden is not None and "no gradient at all" not in hidden.message and "hides its gradients" in hidden.message
    saturated = zero_gradients(Wrapped(model, lambda z: 1e6 * z), *data)
    assert saturated is not None and "softmax saturates" in saturated.message
    none = zero_gradients(lambda x: model(x).detach(), *data)
    assert none is not None and "no gradient at all" in none.message


def test_transfer_beats_masked_gradients(model, data):
    """A model that hides its gradients is fooled by what was made on the plain one."""
    inputs, labels = data
    hidden = Steps(model)
    plain = sign_steps(model, inputs, labels, steps=12)
    own = sign_steps(hidden, inputs, labels, steps=12)
    distances = np.where((hidden(own.x).argmax(1) != labels).numpy(), 0.0, np.inf)
    sign = transfer_beats(hidden, inputs, labels, plain.x, distances, "l2", origin="the plain one", batch_size=25)
    assert sign is not None and "made on the plain one" in sign.message
    honest = (plain.x - inputs).flatten(1).norm(dim=1).double().numpy()
    assert transfer_beats(model, inputs, labels, plain.x, honest, "l2") is None  # its own: not nearer than they are


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_noise_beats_an_attack_that_fails(model, data, norm):
    far = {"l1": 60.0, "l2": 8.0, "linf": 1.0}[norm]
    assert noise_beats(model, *data, np.full(60, far), norm) is not None
    assert noise_beats(model, *data, np.full(60, np.inf), norm) is not None
    before = torch.get_rng_state()
    first, again = (noise_beats(model, *data, np.full(60, far), norm, seed=1) for _ in range(2))
    assert first == again and torch.equal(before, torch.get_rng_state())


def test_an_attack_without_bound_that_fails(model, data):
    sign = fails_unbounded(pgd, Steps(model), *data, steps=10, name="steps")
    assert sign is not None and "without bound fails on" in str(sign) and str(sign).startswith("steps: ")


def test_success_that_falls():
    minimal = [("fmn", {"steps": 100}, 0.9995), ("fmn", {"steps": 1000}, 0.97), ("ddn", {"steps": 1000}, 0.5)]
    assert [sign.message.partition(" falls")[0] for sign in success_falls(minimal, "m")] == ["success of fmn"]
    grown = [("pgd", {"eps": 0.1}, 0.5), ("pgd", {"eps": 0.3}, 0.9), ("pgd", {"eps": 0.2, "steps": 3}, 0.1)]
    assert success_falls(grown) == []
    assert (
        "as eps grows from 0.1 to 0.3" in success_falls([("a", {"eps": 0.3}, 0.2), ("a", {"eps": 0.1}, 0.5)])[0].message
    )


def test_rounding_to_8_bits(data):
    levels = torch.arange(256) / 255
    assert torch.equal(round_to_8_bits(levels), levels)
    x = torch.rand(1000)
    rounded = round_to_8_bits(x)
    assert (rounded - x).abs().max() <= 0.5 / 255 + 1e-7 and rounded.unique().numel() <= 256
    assert torch.equal(rounded, round_to_8_bits(rounded))
    wide = round_to_8_bits(torch.tensor([-1.0, -0.999, 0.3, 1.0]), (-1.0, 1.0))
    assert wide.min() >= -1 and wide.max() <= 1 and torch.allclose((wide + 1) * 127.5, ((wide + 1) * 127.5).round())
