"""The results of every attack recipe, solver and training loss on fixed seeds, as they once were recorded.

A refactoring must change none of them (to 1e-6): ``test_results`` shows that. Passes of the model may be counted
otherwise on purpose, so they have a test of their own. A line of ``recorded_results.json`` is a call and what it gave:
``attack``, ``solver``, ``loss`` or ``measure``, what is called, on what, and its options. Where a result is meant to
change, record anew and look at the difference; a new case is a new line, ``"attack fgsm digits eps=0.1": {}``::

    python tests/test_recorded_results.py --record            # everything
    python tests/test_recorded_results.py --record passes     # the passes alone

All is in float64 and of few steps, so that the rounding of another machine does not grow to 1e-6.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import shlex
from collections.abc import Callable
from functools import cache, partial
from inspect import isclass, signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, one_hot

import constropt
from constropt import AugmentedLagrangian, Box, ConstrainedProblem, inequality, solve, solvers, training
from constropt.problems import attacks, calibration, metric_learning, objectives
from constropt.testing import known_problems

FILE = Path(__file__).with_name("recorded_results.json")
RECORDED: dict[str, dict[str, Any]] = json.loads(FILE.read_text()) if FILE.exists() else {}
PASSES = "forwards", "backwards", "first_feasible"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def traits(x: Tensor) -> dict[str, Tensor]:
    """Three numbers for each row, which tell apart what has the same sum in another order."""
    x = x.detach().reshape(len(x), -1)
    return {"sum": x.sum(1), "squares": x.square().sum(1), "wave": x @ torch.arange(x.shape[1]).to(x).cos()}


def summary(solution: constropt.Solution) -> dict[str, Any]:
    names = "objective", "feasible", "violation", "status", "winner"
    record = {name: getattr(solution, name) for name in names if hasattr(solution, name)} | traits(solution.x)
    record["multipliers"] = torch.stack([m.double().sum() for m in (torch.zeros(1), *solution.multipliers)])
    return record | {"passes": {name: getattr(solution, name) for name in PASSES}}


# --------------------------------------------------------------------------------------------------------- attacks


def network(x: Tensor, first: Tensor, last: Tensor) -> Tensor:
    return (x.flatten(1) @ first).tanh() @ last


@cache
def scene(kind: str) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor]:
    """A model, inputs, labels and targets: of six digits, two color images, or two label maps with void pixels."""
    if kind == "digits":  # random features, and a last layer by least squares: right without training
        data = pytest.importorskip("sklearn.datasets").load_digits()
        images, labels, first = torch.tensor(data.images)[:, None], torch.tensor(data.target), draw(64, 64) / 3
        images = 0.1 + images / 20 + 0.02 * draw(*images.shape, seed=1).tanh()  # no two pixels are equal
        features = (images.flatten(1) @ first).tanh()
        gram = features.T @ features + torch.eye(64).to(first)
        last = 10 * torch.linalg.solve(gram, features.T @ one_hot(labels, 10).to(first))
        right = network(images, first, last).argmax(1) == labels
        rows = torch.stack([((labels == k) & right).nonzero()[k, 0] for k in (0, 2, 3, 5, 8, 9)])
        return partial(network, first=first, last=last), images[rows], labels[rows], (labels[rows] + 1) % 10
    if kind == "colors":
        model = partial(network, first=draw(432, 32) / 10, last=draw(32, 5, seed=1))
        inputs = 0.2 + 0.6 * draw(2, 3, 12, 12, seed=1).sigmoid()
        labels = model(inputs).argmax(1)
        return model, inputs, labels, (labels + 1) % 5
    weight, inputs = draw(3, 3, 3, 3) / 10, 0.5 + 0.1 * draw(2, 3, 6, 6, seed=2).clamp(-3, 3)
    weight[:, :, 1, 1] += draw(3, 3, seed=1)
    model = partial(conv2d, weight=4 * weight, bias=-2 * weight.sum((1, 2, 3)), padding=1)
    labels, void = model(inputs).argmax(1), torch.arange(72).view(2, 6, 6) < 12
    return model, inputs, labels.masked_fill(void, 255), ((labels + 1) % 3).masked_fill(void, 255)


def attacked(name: str, on: str, *, targeted: bool = False, starts: bool = False, **options: Any) -> dict[str, Any]:
    model, inputs, labels, targets = scene(on)
    given = ({"targets": targets} if targeted else {}) | ({"starts": inputs.roll(1, 0)} if starts else {})
    return summary(getattr(attacks, name)(model, inputs, labels, **given, **options))


# --------------------------------------------------------------------------------------------------------- solvers

KNOWN = {known.name: known for known in known_problems()}
BALLS = {"L1Ball": 3.0, "L2Ball": 0.8, "LinfBall": 0.2}
MINIMAL, SCORES = attacks.MinimalPerturbation, attacks.ScorePerturbation
GOALS: dict[str, Callable[..., ConstrainedProblem[Any]]] = {
    "logit_margin": lambda f, x, y: MINIMAL(f, x, y, constraint=attacks.logit_margin(0.5)),
    "outside_top": lambda f, x, y: MINIMAL(f, x, y, constraint=attacks.outside_top(3)),
    "cross_entropy_level": lambda f, x, y: MINIMAL(f, x, y, constraint=attacks.cross_entropy_level(3.0)),
    "labels_flipped": lambda f, x, y: SCORES(f, x, attacks.labels_flipped(one_hot(y, 10), one_hot(y, 10) > 0)),
    "regression_error": lambda f, x, y: SCORES(f, x, attacks.regression_error(f(x) + 0.1 * draw(6, 10), 2.0)),
    "scores_below": lambda f, x, y: SCORES(f, x, attacks.scores_below(lambda z: z.gather(1, y[:, None]), 1.0)),
}


def declared(kind: str) -> tuple[ConstrainedProblem[Any], Tensor]:
    """A problem and its start: of known optimum, an attack's goal, on a ball, nearest in a norm, or a quadratic."""
    if kind in KNOWN:
        return KNOWN[kind].problem(), KNOWN[kind].start
    if kind in GOALS:
        model, inputs, labels, _ = scene("digits")
        return GOALS[kind](model, inputs, labels), inputs
    if kind.endswith("_margins"):
        anchor = draw(6, 2, seed=5)
        return getattr(metric_learning, kind)(torch.arange(6) // 2, anchor=anchor), anchor[None]
    if kind in BALLS:  # the constraint only says which points are feasible
        a, center = draw(3, 1, 5, 5, seed=11), draw(3, 1, 5, 5, seed=10).sigmoid()
        return ConstrainedProblem(
            objective=lambda x, _: ((x - a).square() + (x - a) ** 4 / 4).flatten(1).sum(1),
            constraints=[inequality(lambda x, _: (x - center)[:, 0, 2, 2])],
            domain=getattr(constropt, kind)(torch.full((3,), BALLS[kind]).to(a), center, Box()),
        ), center
    name, _, p = kind.partition(":")
    if p:  # "one:2": in the l2 norm, where one of three functions is negative; "first:2": where the first is
        normal, start = draw(6, 3, seed=8), draw(4, 6, seed=9).sigmoid()

        def values(x: Tensor, _: Any) -> Tensor:
            y = (x - start) @ normal + 0.2 * (x @ normal).sin() + 0.7 + 0.2 * draw(4, 3, seed=10)
            return y[:, :1] if name == "first" else y

        def distance(x: Tensor, _: Any) -> Tensor:
            return (x - start).norm(p=float(p), dim=1) if float(p) else (x != start).sum(1).to(x)

        below = inequality(lambda x, z: values(x, z).amin(1), alternatives=values)
        return ConstrainedProblem(distance, [below], domain=Box()), start
    a, level = draw(3, 4, seed=5), {"infeasible": -1.0, "unbounded": 1.0}.get(kind, 0.04)
    bounded = inequality(lambda x, _: x[:, :2].square() - level, shared=(0,) if kind == "shared" else ())
    return ConstrainedProblem(
        objective=lambda x, _: x[:, 2:].sum(1) if kind == "unbounded" else (x - a).square().sum(1),
        constraints=[bounded],
        domain=constropt.Simplex() if kind == "simplex" else constropt.Reals(),
        independent=kind != "shared",
    ), torch.full_like(a, 0.25)


def solved(name: str, on: str, *, steps: int = 30, again: bool = False, **options: Any) -> dict[str, Any]:
    """By a solver, or an augmented Lagrangian, or ("None") the default; ``again``: from the duals of a first run."""
    problem, start = declared(on)
    method = None if name == "None" else called(name, solvers, attacks, constropt)(**options)
    duals = solve(problem, method, start, steps=steps).duals if again else None
    return summary(solve(problem, method, start, steps=steps, duals=duals))


# ---------------------------------------------------------------------------------------------- losses and metrics

LABELS, KINDS, POSITIVE = torch.arange(12) % 5, torch.arange(12) // 4, torch.arange(12) % 2
MAPS, REGIONS = 3 * draw(2, 3, 4, 4, seed=1), torch.arange(32).view(2, 4, 4) % 3
DATA: dict[str, tuple[Tensor, Any]] = {
    "logits": (4 * draw(12, 5), torch.where(LABELS == 2, -100, LABELS)),
    "maps": (MAPS, REGIONS),
    "bounds": (MAPS, (REGIONS, objectives.size_bounds(REGIONS.flip(1), 3))),
    "embeddings": (draw(12, 4, seed=2), KINDS),
    "binary": (draw(12, seed=3), POSITIVE),
    "groups": (draw(12, seed=3), (POSITIVE, LABELS % 2)),
}
RATE = training.on_average(
    lambda z, y: (z[:, 0] > 0).to(z) - 0.3, surrogate=lambda z, y: z[:, 0].sigmoid(), mask=lambda z, y: y > 0
)
BALANCE = training.on_average(lambda z, y: z[:, 1:3] - 0.2, shape=(2,), equality=True, name="balance")
BELOW = training.samplewise(lambda z, y: z / 3 - 1, shape=(5,), name="below")


def gradients(criterion: Any, output: Tensor, target: Any) -> dict[str, Any]:
    output = output.clone().requires_grad_()
    value = criterion(output, target)
    found = torch.autograd.grad(value, [output, *criterion.parameters()], allow_unused=True)
    norms = torch.stack([torch.zeros(()).double() if g is None else g.norm() for g in found])
    return {"value": value, "norms": norms} | {f"gradient {key}": part for key, part in traits(found[0]).items()}


def lost(name: str, on: str, **options: Any) -> dict[str, Any]:
    """The loss, its gradients and parts, and the same with its duals after three steps, where it has any."""
    output, target = DATA[on]
    criterion = called(name, calibration, metric_learning, objectives, training)(**options).double()
    for index, parameter in enumerate(criterion.parameters()):
        parameter.data = draw(*parameter.shape, seed=index)
    record = gradients(criterion, output, target)
    if hasattr(criterion, "tightness"):
        record["parts"] = torch.stack([criterion.tightness(output, target), criterion.contrastive(output, target)])
    if hasattr(criterion, "update_duals"):
        for scale in (0.5, 1.0, 2.0):
            criterion.update_duals(lambda x: x, [(scale * output, target), (output.flip(0), target)])
        record |= {f"then {key}": part for key, part in gradients(criterion, output, target).items()}
        for key in ("multipliers", "rho", "levels"):
            found = getattr(criterion, key)
            record[key] = torch.cat([m.flatten() for m in (found.values() if isinstance(found, dict) else [found])])
    return record


def measured(name: str, on: str, **options: Any) -> dict[str, Any]:
    """Scaled logits; metrics; and the loss that remembers a data set."""
    output, target = DATA[on]
    if name == "MemoryBank":
        criterion = metric_learning.SNCA(bank=metric_learning.MemoryBank(**options)).double()
        for indices in (torch.arange(10), torch.arange(5, 15)):
            criterion.bank.update(indices, draw(10, 4, seed=4), indices % 3)
        return traits(criterion.bank.embeddings) | {"value": criterion(output, target, indices=torch.arange(12))}
    if name == "retrieval_metrics":
        found = metric_learning.retrieval_metrics(output, target, ks=(1, 2, 4))
        values = [*found.recall.values(), *found.precision.values(), found.map_at_r, found.r_precision]
        recall = metric_learning.recall_at_k(output, target, distance="l2")
        report = metric_learning.bound_report(output, target, draw(3, 4), lam="eigenvalue")
        return {"values": torch.tensor([*values, *recall.values(), report.pce, report.spce, report.lam])}
    function = called(name, calibration, metric_learning)
    if isclass(function):
        return traits(function(**options).double().fit(output, target)(output))
    return {"value": function(output, target, **options)}


# ------------------------------------------------------------------------------------------------------- the tests

NAMED = {
    "inf": math.inf,
    "end": (draw(4, 6, seed=9).sigmoid() - draw(6, 3, seed=8)[:, 0]).clamp(0, 1),
    "linear": nn.utils.skip_init(nn.Linear, 4, 3),
    "cross_entropy": cross_entropy,
    "constraints": [RATE, BALANCE, BELOW],
    "two": ("fgsm", "minimal"),
} | {f"L({name})": AugmentedLagrangian(name, mu=1.0, rho=1.0) for name in ("PHR", "P2", "P3")}
RUNS: dict[str, Callable[..., Any]] = {"attack": attacked, "solver": solved, "loss": lost, "measure": measured}


def called(name: str, *faces: Any) -> Any:
    return next(getattr(face, name) for face in faces if hasattr(face, name))


def option(text: str) -> Any:
    try:
        return NAMED[text] if text in NAMED else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def flat(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: flat(part) for key, part in value.items()}
    return [v if math.isfinite(v) else str(v) for v in value.detach().flatten().tolist()]


@cache
def result(call: str) -> dict[str, Any]:
    """What a call gives now: flat lists of numbers."""
    run, name, on, *options = shlex.split(call)
    pairs = (text.split("=", 1) for text in options)
    return flat(RUNS[run](name, on, **{key: option(value) for key, value in pairs}))


def test_nothing_is_left_out():
    attacking = (name for name in attacks.__all__ if name.islower())
    known = {name for name in attacking if "labels" in signature(getattr(attacks, name)).parameters}
    for face in (solvers, calibration, metric_learning, objectives, training):
        classes = {name: value for name, value in vars(face).items() if isclass(value)}
        known |= {name for name, value in classes.items() if issubclass(value, (solvers.Solver, nn.Module))}
    parts = {"Solver", "SplitLoss", "PairwiseLoss", "DualState", "dlr", "logit_difference", "labels_flipped"}
    assert known - {call.split()[1] for call in RECORDED} - parts == set()


@pytest.mark.parametrize("call", RECORDED)
def test_results(call):
    now, then = result(call), RECORDED[call]
    assert list(now) == list(then)
    for key in then.keys() - {"passes"}:
        actual, expected = (torch.tensor([float(v) for v in side[key]], dtype=torch.float64) for side in (now, then))
        torch.testing.assert_close(
            actual, expected, atol=1e-6, rtol=1e-6, equal_nan=True, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("call", [call for call, record in RECORDED.items() if "passes" in record])
def test_passes(call):
    assert result(call)["passes"] == RECORDED[call]["passes"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", nargs="?", const="all", choices=["all", "passes"], required=True)
    passes_alone = parser.parse_args().record == "passes"
    for call, then in RECORDED.items():
        now = result(call)
        RECORDED[call] = then | {key: now[key] for key in now.keys() & {"passes"}} if passes_alone else now
    lines = (f"{json.dumps(call)}: {json.dumps(record, allow_nan=False)}" for call, record in RECORDED.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
