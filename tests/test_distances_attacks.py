"""Attacks that minimise image distances: success, decrease, and that the distance asked for is the one minimised."""

from __future__ import annotations

import pytest
import torch
from distances import ALL, batch, squeezenet
from torch import Tensor, nn

from constropt import solve
from constropt.problems.attacks import ALMA, MinimalPerturbation, alma, cw, lpa, pdgd, perc_al
from constropt.problems.distances import SSIM


@pytest.fixture(scope="module")
def victim() -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(72, 4),
        )  # fmt: skip
    x = 0.1 + 0.8 * batch(5, rows=6)
    # logits without the bias that makes one class win everywhere
    logits = model(x)
    with torch.no_grad():
        model[-1].bias -= logits.mean(0)
    return model.eval(), x, model(x).argmax(1)


@pytest.mark.parametrize("name", ["l1", "l2", "ssim", "ms_ssim", "ciede2000", "lpips", "wasserstein"])
def test_alma_minimises_every_smooth_distance(name, victim):
    model, x, labels = victim
    distance = ALL[name]
    seen = []

    def watch(step, point, proposal):
        seen.append(point.objective.detach().masked_fill(point.violation() > 0, torch.nan))

    found = alma(model, x, labels, distance=distance, steps=60, callback=watch)
    assert found.feasible.all() and (model(found.x).argmax(1) != labels).all()
    assert torch.allclose(found.objective, distance(found.x, x), rtol=1e-3, atol=1e-7)
    assert (found.forwards <= 62).all() and (found.backwards <= 60).all()
    met = torch.stack(seen)
    first = met.gather(0, (~met.isnan()).int().argmax(0, keepdim=True))[0]
    assert (found.objective <= first * (1 + 1e-4)).all() and found.objective.median() < 0.7 * first.median()
    if name in ("ssim", "ms_ssim", "ciede2000", "lpips"):
        nearest = alma(model, x, labels, distance="l2", steps=60)
        assert found.objective.median() < distance(nearest.x, x).median()


def test_alma_takes_names_of_image_distances(victim):
    model, x, labels = victim
    by_name, by_object = (alma(model, x, labels, distance=d, steps=20) for d in ("ssim", SSIM()))
    assert torch.equal(by_name.x, by_object.x)


def test_the_reference_is_prepared_once(victim):
    model, x, labels = victim
    prepared = []

    class Watched(SSIM):
        def prepare(self, reference):
            prepared.append(reference)
            return super().prepare(reference)

    problem = MinimalPerturbation(model, x, labels, distance=Watched())
    assert len(prepared) == 1 and problem.distance.name == "ssim"
    assert solve(problem, ALMA(ema=0.5, increase=3e-5), x, steps=10).feasible.any()
    assert len(prepared) == 1


def test_images_that_a_distance_does_not_take_are_refused_before_the_model_is_called():
    def model(x: Tensor) -> Tensor:
        raise AssertionError("called")

    x, labels = torch.rand(1, 3, 8, 8), torch.tensor([0])
    for distance, message in (
        ("ssim", r"at least 11 pixels a side .*\(8, 8\); pass SSIM\(window=7\)"),
        ("ms_ssim", "at least 176 pixels a side"),
        (squeezenet(), "at least 17 pixels a side"),
    ):
        with pytest.raises(ValueError, match=message):
            alma(model, x, labels, distance=distance)


def test_other_bounds_give_the_same_images(victim):
    model, x, labels = victim
    here = alma(model, x, labels, distance="ssim", steps=30)
    wide = alma(lambda t: model(t / 4 + 0.5), 4 * x - 2, labels, distance="ssim", steps=30, bounds=(-2.0, 2.0))
    assert wide.feasible.all() and wide.objective.median() < 4 * here.objective.median()


@pytest.mark.parametrize("recipe", [alma, cw, lpa, pdgd, perc_al])
def test_a_count_is_refused_by_what_follows_gradients(recipe, victim):
    _, x, labels = victim

    def model(_):
        raise AssertionError("called")

    with pytest.raises(ValueError, match="'l0_pixels' has no gradient.*sigma_zero"):
        recipe(model, x, labels, distance="l0_pixels")
