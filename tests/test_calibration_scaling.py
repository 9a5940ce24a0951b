"""Temperature and vector scaling against scipy's optima, at the ends of the range, and as modules."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constropt.problems.calibration.metrics import accuracy, expected_calibration_error, negative_log_likelihood
from constropt.problems.calibration.scaling import TemperatureScaling, VectorScaling

optimize = pytest.importorskip("scipy.optimize")


def sample(seed: int = 0, entries: int = 400, classes: int = 5, sharpness: float = 2.0, dtype=torch.float64):
    """Logits that are ``sharpness`` times those which the labels are drawn from."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(entries, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    return (sharpness * logits).to(dtype), labels


def nll(logits, labels) -> float:
    return float(negative_log_likelihood(logits, labels, from_logits=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(20, 300), st.floats(-1.5, 2))
def test_temperature_is_scipys_optimum(seed, classes, entries, exponent):
    logits, labels = sample(seed, entries, classes, 10**exponent)
    temperature = float(TemperatureScaling().fit(logits, labels).temperature)
    best = optimize.minimize_scalar(
        lambda u: nll(logits / np.exp(u), labels),
        bounds=np.log([0.01, 1000]),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert nll(logits / temperature, labels) <= best.fun + 1e-9
    if 0.02 < temperature < 500:
        assert temperature == pytest.approx(np.exp(best.x), rel=1e-4)
        slope = (nll(logits / (temperature * 1.001), labels) - nll(logits / (temperature / 1.001), labels)) / 0.002
        assert abs(slope) < 1e-3


def test_temperature_finds_how_much_too_sharp_logits_are():
    for sharpness in (0.2, 1.0, 4.0):
        logits, labels = sample(1, 20_000, 10, sharpness)
        scaling = TemperatureScaling().fit(logits, labels)
        assert float(scaling.temperature) == pytest.approx(sharpness, rel=0.03)
        scaled = scaling(logits)
        assert float(expected_calibration_error(scaled, labels, from_logits=True)) < 0.015
        assert torch.equal(scaled.argmax(1), logits.argmax(1))


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_ece_search_is_the_best_of_its_grid_and_never_worse_than_nothing(sharpness):
    logits, labels = sample(2, 500, 5, sharpness, torch.float32)
    scaling = TemperatureScaling("ece", bins=10).fit(logits, labels)
    errors = {
        t / 10: expected_calibration_error(logits / (t / 10), labels, from_logits=True, bins=10) for t in range(1, 101)
    }
    found = expected_calibration_error(scaling(logits), labels, from_logits=True, bins=10)
    assert float(found) <= min(map(float, errors.values())) + 1e-6 and float(found) <= float(errors[1.0])
    assert round(float(scaling.temperature), 1) in errors


def test_of_equal_temperatures_the_nearest_to_one():
    equal = torch.zeros(6, 3)  # every temperature gives the same
    for method in ("nll", "ece"):
        assert float(TemperatureScaling(method).fit(equal, torch.tensor([0, 1, 2] * 2)).temperature) == 1


def test_where_no_optimum_exists_the_range_ends():
    logits = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    assert float(TemperatureScaling().fit(logits, torch.tensor([0, 1])).temperature) == pytest.approx(0.01)
    assert float(TemperatureScaling().fit(logits, torch.tensor([1, 0])).temperature) == pytest.approx(1000)
    one = TemperatureScaling().fit(torch.tensor([[1.0, 2.0]]), torch.tensor([1]))
    assert float(one.temperature) == pytest.approx(0.01)
    huge = torch.tensor([[1e30, 0.0], [1e30, 0.0], [0.0, 1e30]])
    assert torch.isfinite(TemperatureScaling().fit(huge, torch.tensor([0, 1, 1])).temperature)


@pytest.mark.parametrize(("seed", "classes", "scale"), [(0, 3, 1.0), (1, 10, 30.0), (2, 20, 0.05)])
def test_vector_scaling_is_scipys_optimum(seed, classes, scale):
    logits, labels = sample(seed, 60 * classes, classes, scale)
    logits = logits * torch.linspace(0.5, 2, classes) + scale * torch.linspace(-1, 1, classes)

    def objective(x):
        weights = torch.tensor(x.reshape(2, classes), requires_grad=True)
        loss = torch.nn.functional.cross_entropy(logits / scale * weights[0] + weights[1], labels)
        loss.backward()
        return loss.item(), weights.grad.numpy().ravel()

    start = np.r_[np.ones(classes), np.zeros(classes)]
    best = optimize.minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    scaling = VectorScaling(classes).fit(logits, labels)
    assert nll(scaling(logits), labels) == pytest.approx(best.fun, abs=1e-6)
    expected = best.x.reshape(2, classes)
    assert np.allclose(scaling.scale.numpy() * scale, expected[0], atol=3e-3)
    assert np.allclose(scaling.bias.numpy(), expected[1] - expected[1].mean(), atol=3e-3)
    assert abs(float(scaling.bias.mean())) < 1e-5
    assert nll(scaling(logits), labels) <= nll(TemperatureScaling().fit(logits, labels)(logits), labels) + 1e-6


def test_vector_scaling_without_an_optimum_stays_finite():
    logits, labels = sample(3, 50, 6)
    labels[labels == 5] = 0  # the bias of class 5 wants to be minus infinity
    scaling = VectorScaling(6, steps=50).fit(logits, labels)
    assert scaling.scale.isfinite().all() and scaling.bias.isfinite().all()
    assert nll(scaling(logits), labels) <= nll(logits, labels)


def modules():
    return [TemperatureScaling(), TemperatureScaling("ece"), VectorScaling(4)]


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module))
def test_dense_logits_and_ignored_entries(module):
    logits, labels = sample(4, 3 * 5 * 6, 4)
    maps, map_labels = logits.reshape(3, 5, 6, 4).permute(0, 3, 1, 2).contiguous(), labels.reshape(3, 5, 6).clone()
    flat = copy.deepcopy(module).fit(logits[10:], labels[10:])
    map_labels.view(-1)[:10] = -100
    maps[0, :, 0, 0] = torch.nan  # ignored
    dense = module.fit(maps, map_labels)
    for name, value in flat.state_dict().items():
        assert torch.allclose(dense.state_dict()[name], value, rtol=1e-5), name
    scaled = dense(maps)
    assert scaled.shape == maps.shape
    assert torch.allclose(scaled.permute(0, 2, 3, 1).reshape(-1, 4)[10:], flat(logits)[10:], rtol=1e-5)


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module))
def test_modules_round_trip_and_keep_dtypes_and_gradients(module):
    logits, labels = sample(5, 200, 4)
    assert torch.equal(module(logits), logits)  # before the fit
    assert module.fit(logits.clone().requires_grad_(), labels) is module
    assert not list(module.parameters())
    other = type(module)(4) if isinstance(module, VectorScaling) else TemperatureScaling()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(logits), module(logits))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert module(logits.to(dtype)).dtype == dtype
        again = copy.deepcopy(module).fit(logits.to(dtype), labels)
        for name, value in module.state_dict().items():
            assert torch.allclose(again.state_dict()[name], value, atol=0.11), name  # a step of the search is 0.1
    inputs = logits.clone().requires_grad_()
    module(inputs).sum().backward()
    assert inputs.grad is not None and inputs.grad.isfinite().all()


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module))
def test_bad_input_is_named_and_changes_nothing(module):
    logits, labels = sample(6, 20, 4)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for bad, message in (
        ((logits[:0], labels[:0]), "labels: no entry counts"),
        ((logits, torch.full_like(labels, -100)), "labels: no entry counts"),
        ((logits.index_fill(0, torch.tensor([3]), torch.nan), labels), "logits: .* nan in entry 3"),
        ((logits.index_fill(1, torch.tensor([3]), -torch.inf), labels), "logits: takes finite"),
        ((logits, labels + 4), "labels: take 0 to 3"),
        ((logits, labels[:5]), "labels: takes shape"),
    ):
        with pytest.raises(ValueError, match=message):
            module.fit(*bad)
    with pytest.raises(TypeError, match="logits: takes a tensor"):
        module.fit(logits.tolist(), labels)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="method: takes one of nll, ece"):
        TemperatureScaling("lbfgs")
    with pytest.raises(ValueError, match="bins"):
        TemperatureScaling("ece", bins=0)
    with pytest.raises(ValueError, match="num_classes: takes a whole number >= 2"):
        VectorScaling(1)
    with pytest.raises(ValueError, match="steps"):
        VectorScaling(3, steps=0)
    with pytest.raises(ValueError, match=r"takes \(batch, 3, \*dims\)"):
        VectorScaling(3)(torch.zeros(2, 4))


def test_a_temperature_improves_an_overconfident_model_on_new_data():
    logits, labels = sample(7, 4000, 10, 3.0)
    scaling = TemperatureScaling().fit(logits[:2000], labels[:2000])
    new, truth = logits[2000:], labels[2000:]
    before, after = (float(expected_calibration_error(z, truth, from_logits=True)) for z in (new, scaling(new)))
    assert after < 0.2 * before
    assert float(accuracy(scaling(new), truth, from_logits=True)) == float(accuracy(new, truth, from_logits=True))
