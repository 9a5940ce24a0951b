"""Attacks of adv_lib, Foolbox and torchattacks beside the same of constropt, with the same hyper-parameters.

No library is imported before its cases are asked for; they are development tools only (``pip install --no-deps adv-lib
foolbox eagerpy torchattacks``, for Foolbox' Brendel & Bethge also numba and llvmlite). Hyper-parameters are our
defaults, the published ones, and the peer's are set to them; a peer that has no such setting keeps its own way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from peers import adv_lib, stand_ins
from torch import Tensor, nn

from constropt.problems import attacks
from constropt.problems.attacks.augmented_lagrangian import ema_for
from constropt.problems.attacks.declared import MinimalPerturbation
from constropt.problems.attacks.goals import misclassified
from constropt.problems.attacks.method import solution_at
from constropt.problems.distances import as_distance
from constropt.solution import Solution

P = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": torch.inf}
Attack = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One of our recipes with ``options``, and ``theirs``, the same attack of ``peer``.

    ``eps``: the radius of a budgeted attack, None for a minimal one. ``variant``: what tells cases of one recipe apart.
    ``starts``: both attacks begin from adversarial points that they are given as ``starts``. ``target``: ours is aimed
    at that many classes after the label, as theirs is.
    """

    peer: str
    recipe: str
    distance: str
    options: Mapping[str, Any]
    theirs: Attack
    eps: float | None = None
    variant: str = ""
    starts: bool = False
    target: int | None = None

    @property
    def name(self) -> str:
        return f"{self.recipe} ({self.variant})" if self.variant else self.recipe

    def ours(self, model: nn.Module, x: Tensor, labels: Tensor, **extra: Tensor) -> Tensor:
        """The perturbed inputs of our recipe; the number of classes is that of the data sets here, 10."""
        if self.target is not None:
            extra["targets"] = (labels + self.target) % 10
        return getattr(attacks, self.recipe)(model, x, labels, **self.options, **extra).x


def adversarial_starts(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """For each row the next row of the batch that the model takes for another class than the row's label."""
    with torch.no_grad():
        found = model(x).argmax(1)
    order = (torch.arange(len(x))[:, None] + torch.arange(1, len(x))) % len(x)
    first = (found[order] != labels[:, None]).float().argmax(1)
    return x[order.gather(1, first[:, None])[:, 0]]


def searched(each: int) -> dict[str, int]:
    """The published 9 searches of ``each`` steps."""
    return {"steps": 9 * each, "searches": 9}


def adv_lib_cases(steps: int, budgets: Mapping[str, float], search_steps: int | None = None) -> list[Case]:
    """The pairs with adv_lib; C&W spends ``search_steps`` (or ``steps``) on each search, FAB a fifth of ``steps``."""
    adv_lib()
    import adv_lib.attacks as peer

    few, each = max(steps // 5, 1), search_steps or steps

    def official(function: str, *args: Any, **options: Any) -> Attack:
        return lambda model, x, labels: getattr(peer, function)(model, x, labels, *args, **options)

    case = partial(Case, "adv_lib")
    found = [case("ddn", "l2", {"steps": steps}, official("ddn", steps=steps, levels=None))]
    for name in ("l1", "l2", "ssim", "ciede2000"):
        first = as_distance(name).first_step
        theirs = official("alma", num_steps=steps, distance=name, init_lr_distance=first, α=ema_for(steps))
        found.append(case("alma", name, {"distance": name, "steps": steps}, theirs))
    for name, p in P.items():
        found.append(case("fmn", name, {"distance": name, "steps": steps}, official("fmn", p, steps=steps)))
    for name in ("l2", "linf"):
        p, options = P[name], {"distance": name, "steps": steps}
        found += [
            case("deepfool", name, {"distance": name, "steps": 50}, official("df", steps=50, norm=p)),
            case("trust_region", name, options, official("tr", iter=steps, p=p, adaptive=True)),
        ]
    for name in ("l1", "l2", "linf"):
        p = P[name]
        found += [
            case("fab", name, {"distance": name, "steps": few}, official("fab", p, n_iter=few)),
            case("pdpgd", name, {"distance": name, "steps": steps}, official("pdpgd", p, num_steps=steps)),
        ]
    found += [
        case(
            "pdpgd",
            "l0",
            {"distance": "l0", "steps": steps},
            official("pdpgd", 0, num_steps=steps, proximal_operator=23),
        ),
        case("pdgd", "l2", {"steps": steps}, official("pdgd", num_steps=steps)),
        case("sigma_zero", "l0", {"steps": steps}, official("sigma_zero", num_steps=steps)),
        case("superdeepfool", "l2", {"accumulate": True}, official("sdf"), variant="accumulate"),
        case("cw", "l2", searched(each), official("carlini_wagner_l2", max_iterations=each, initial_const=1e-3)),
    ]
    found.append(
        case("perc_al", "ciede2000", {"steps": steps}, official("perc_al", num_classes=10, max_iterations=steps))
    )
    for name in ("l1", "l2", "linf"):
        options = {"distance": name, "loss": "dlr", "steps": max(steps // 13, 1), "searches": 13}
        found.append(case("apgd", name, options, _minimal_apgd(name, options["steps"]), variant="minimal"))
    for name, eps in budgets.items():
        for loss in ("ce", "dlr"):
            options = {"eps": eps, "distance": name, "loss": loss, "steps": steps}
            theirs = official("apgd", eps, norm=P[name], n_iter=steps, loss_function=loss, use_large_reps=name == "l1")
            found.append(case("apgd", name, options, theirs, eps, variant=loss))
    return found


def _minimal_apgd(name: str, steps: int) -> Attack:
    """adv_lib's bisection of the radius, from the same radius on as ours: half the distance across [0, 1]."""

    def attack(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        from adv_lib.attacks.auto_pgd import minimal_apgd

        half = torch.linalg.vector_norm(torch.ones_like(x[0]), P[name]).item() / 2
        return minimal_apgd(
            model, x, labels, P[name], half, binary_search_steps=13, n_iter=steps, use_large_reps=name == "l1"
        )

    return attack


def foolbox_cases(steps: int, budgets: Mapping[str, float], search_steps: int | None = None) -> list[Case]:
    """The pairs with Foolbox; C&W and EAD spend ``search_steps`` (or ``steps``) on each search."""
    stand_ins("git", "requests")
    import foolbox
    import foolbox.attacks as peer
    from foolbox.attacks import mi_fgsm

    def official(kind: Any, eps: float | None = None, **options: Any) -> Attack:
        within = {} if eps is None else {"epsilon": eps}

        def attack(model: nn.Module, x: Tensor, labels: Tensor, starts: Tensor | None = None) -> Tensor:
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
            given = within if starts is None else {"starting_points": starts}
            found = kind(**options).run(wrapped, x, foolbox.criteria.Misclassification(labels), **given)
            # of C&W and EAD a black image says that nothing was found, though many models take it for another class
            return torch.where((found.flatten(1) == 0).all(1).view(-1, *[1] * (x.dim() - 1)), x, found)

        return attack

    def named(name: str, attack: str) -> Any:
        return getattr(peer, name[0].upper() + name[1:] + attack)

    case = partial(Case, "Foolbox")
    found: list[Case] = []
    for name, eps in budgets.items():
        options = {"eps": eps, "distance": name}
        iterated = {**options, "steps": steps}
        if name != "l1":
            found.append(case("fgsm", name, options, official(named(name, "FastGradientAttack"), eps), eps))
        momentum = getattr(mi_fgsm, f"{name.capitalize()}MomentumIterativeFastGradientMethod")
        first = {"rel_stepsize": 1.25 / steps, "random_start": False}
        bim = official(named(name, "BasicIterativeAttack"), eps, steps=steps, **first)
        pgd = official(named(name, "ProjectedGradientDescentAttack"), eps, steps=steps, rel_stepsize=2.5 / steps)
        found += [
            case("bim", name, iterated, bim, eps),
            case("pgd", name, iterated, pgd, eps),
            case("mi_fgsm", name, iterated, official(momentum, eps, steps=steps, rel_stepsize=1 / steps), eps),
        ]
    for name in ("l2", "linf"):
        theirs = official(named(name, "DeepFoolAttack"), steps=50)
        found.append(case("deepfool", name, {"distance": name, "steps": 50}, theirs))
    each = search_steps or steps
    found += [
        case("cw", "l2", searched(each), official(peer.L2CarliniWagnerAttack, steps=each)),
        case("ddn", "l2", {"steps": steps}, official(peer.DDNAttack, steps=steps)),
    ]
    for beta in (1e-3, 1e-2):
        for early in (False, True):
            ours = {**searched(each), "rule": "l1", "beta": beta, "abort_early": early}
            options = {"steps": each, "decision_rule": "L1", "regularization": beta, "abort_early": early}
            variant = f"beta {beta:g}{', abort early' if early else ''}"
            found.append(case("ead", "l1", ours, official(peer.EADAttack, **options), variant=variant))
    for name in P:
        long = "linfinity" if name == "linf" else name
        options = {"distance": name, "steps": steps}
        found += [
            case("fmn", name, options, official(named(name.replace("i", "I"), "FMNAttack"), steps=steps)),
            case(
                "brendel_bethge", name, options, official(named(long, "BrendelBethgeAttack"), steps=steps), starts=True
            ),
        ]
    return found


def torchattacks_cases(steps: int, budgets: Mapping[str, float], search_steps: int | None = None) -> list[Case]:
    """The pairs with torchattacks; EAD spends ``search_steps`` (or ``steps``) on each search, FAB ``steps / 5``."""
    stand_ins("torchvision", "requests")
    import torchattacks as peer

    def official(kind: str, **options: Any) -> Attack:
        return lambda model, x, labels: getattr(peer, kind)(model, **options)(x, labels)

    case = partial(Case, "torchattacks")
    few, each = max(steps // 5, 1), search_steps or steps
    found: list[Case] = []
    for name, eps in budgets.items():
        if name == "l1":  # it has none of them
            continue
        options = {"eps": eps, "distance": name}
        iterated = {**options, "steps": steps}
        norm = {"norm": name.capitalize(), "eps": eps}
        for loss in ("ce", "dlr"):
            theirs = official("APGD", **norm, steps=steps, loss=loss)
            found.append(case("apgd", name, {**iterated, "loss": loss}, theirs, eps, variant=loss))
        targeted = official("APGDT", **norm, steps=few)
        found += [
            case(
                "apgd", name, {**options, "steps": few, "loss": "targeted dlr"}, targeted, eps, variant="targeted dlr"
            ),
            case(
                "square", name, {**options, "steps": 10 * steps}, official("Square", **norm, n_queries=10 * steps), eps
            ),
        ]
        pgd = {"eps": eps, "steps": steps, "alpha": 2.5 * eps / steps}
        if name == "l2":
            found.append(case("pgd", name, iterated, official("PGDL2", **pgd), eps))
            continue
        found += [
            case("fgsm", name, options, official("FGSM", eps=eps), eps),
            case("bim", name, iterated, official("BIM", **{**pgd, "alpha": 1.25 * eps / steps}), eps),
            case("pgd", name, iterated, official("PGD", **pgd), eps),
            case("mi_fgsm", name, iterated, official("MIFGSM", **{**pgd, "alpha": eps / steps, "decay": 1.0}), eps),
        ]
    for name in ("l2", "linf"):  # its l1 ends in an error
        # without an eps it returns nothing beyond 8/255, whatever the norm
        theirs = official("FAB", norm=name.capitalize(), steps=few, eps=1e9)
        found.append(case("fab", name, {"distance": name, "steps": few}, theirs))
    once = {"steps": steps, "searches": 1, "weight": 1.0}
    found += [
        case("cw", "l2", once, official("CW", c=1, steps=steps), variant="c = 1"),
        case("deepfool", "l2", {"distance": "l2", "steps": 50}, official("DeepFool", steps=50)),
    ]
    for early in (False, True):
        ours = {**searched(each), "rule": "l1", "beta": 1e-3, "abort_early": early}
        theirs = official("EADL1", max_iterations=each, abort_early=early)
        found.append(case("ead", "l1", ours, theirs, variant="abort early" if early else ""))
    found.append(
        case(
            "jsma",
            "l0",
            {"pairs": True, "logits": True, "gamma": 0.1},
            official("JSMA", theta=1.0, gamma=0.1),
            variant="pairs, logits, next class",
            target=1,
        )
    )
    return found


CASES: dict[str, Callable[..., list[Case]]] = {
    "adv_lib": adv_lib_cases,
    "foolbox": foolbox_cases,
    "torchattacks": torchattacks_cases,
}


def peer_recipe(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    peer: str,
    case: str,
    distance: str,
    steps: int,
    search_steps: int | None = None,
) -> Solution:
    """What ``peer`` finds in the minimal case of that name, as a recipe for ``run_evaluation``.

    Feasible is what changes the class; ``forwards`` and ``backwards`` are 0, as nobody counts them here.
    """
    cases = CASES[peer](steps, {}, search_steps)
    (chosen,) = (entry for entry in cases if (entry.name, entry.distance) == (case, distance))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of failures
        x = chosen.theirs(model, inputs.clone(), labels)  # some detach it in place
    problem = MinimalPerturbation(model, inputs, labels, distance=distance, constraint=misclassified(0.0))
    found = solution_at(problem, x.detach().clamp(0, 1))
    return replace(found, forwards=torch.zeros_like(found.forwards))
