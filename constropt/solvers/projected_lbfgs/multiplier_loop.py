"""The outer iterations of the default solver: multipliers, rho, certificates, and what is tried where these fail."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from constropt.duals import ConstantRho, Duals, ProgressRho
from constropt.lagrangian import AugmentedLagrangian
from constropt.penalties import get
from constropt.solvers.projected_lbfgs.certificates import (
    FlatDomain,
    KKTReport,
    infeasible_stationary,
    violation_measure,
)
from constropt.solvers.projected_lbfgs.scaling import Layout, Scaling, row_max
from constropt.solvers.projected_lbfgs.search_state import SearchState

RHO_RANGE = (1e-8, 1e8)
# an outer iteration has to be this late before a violation that does not fall is taken for infeasibility
DOUBT_FROM = 4


def penalise(
    lagrangian: AugmentedLagrangian, layout: Layout, y: Tensor, rho: Tensor, mu: Tensor
) -> tuple[Tensor, Tensor]:
    """P(y, rho, mu) and dP/dy for a table ``(batch, m)`` of values, each in its form; ``rho`` is ``(batch,)``."""
    split, rho = layout.inequalities, rho.unsqueeze(1)
    terms, slopes = [], []
    for equality, columns in ((False, slice(0, split)), (True, slice(split, None))):
        if y[:, columns].shape[1]:
            penalty = lagrangian.form(equality)
            terms.append(penalty(y[:, columns], rho, mu[:, columns]))
            slopes.append(penalty.derivative(y[:, columns], rho, mu[:, columns]))
    return (torch.cat(terms, 1), torch.cat(slopes, 1)) if terms else (y, y)


def safeguard(lagrangian: AugmentedLagrangian, layout: Layout, mu: Tensor) -> Tensor:
    """Multipliers clipped to the lagrangian's safeguards; PHR alone does without a positive minimum."""
    limits, split = lagrangian.multiplier, layout.inequalities
    least = 0.0 if _is_phr(lagrangian) else limits.minimum
    inequalities = mu[:, :split].clamp(least, limits.maximum)
    return torch.cat([inequalities, mu[:, split:].clamp(-limits.maximum, limits.maximum)], 1)


def initial_duals(
    lagrangian: AugmentedLagrangian, layout: Layout, scaling: Scaling, y: Tensor, objective: Tensor
) -> tuple[Tensor, Tensor]:
    """Scaled multipliers ``(batch, m)`` and rho ``(batch,)``; what the lagrangian does not give is chosen here.

    rho balances the objective against the violation at the start (Birgin & Martinez, 2014); multipliers start at 0,
    at 1 for inequalities under penalties that vanish with them.
    """
    if lagrangian.mu is not None:
        mu = scaling.scaled_multipliers(torch.full_like(y, lagrangian.mu))
    else:
        mu = torch.zeros_like(y)
        mu[:, : layout.inequalities] = 0.0 if _is_phr(lagrangian) else 1.0
    if lagrangian.rho is not None and layout.entries:
        rho = scaling.scaled_rho(torch.full_like(y, lagrangian.rho))
    else:
        half = violated(layout, y).square().sum(1) / 2
        rho = 10 * (scaling.objective * objective).abs().clamp_min(1) / half.clamp_min(1)
        rho = torch.where(rho.isfinite(), rho, 1).clamp(*RHO_RANGE)
    return safeguard(lagrangian, layout, mu), rho


def given_duals(
    lagrangian: AugmentedLagrangian, layout: Layout, scaling: Scaling, duals: Sequence[Duals], like: Tensor
) -> tuple[Tensor, Tensor]:
    """The same from the ``duals`` of an earlier solution; ``ValueError`` where they belong to another problem."""
    fits = isinstance(duals, Sequence) and all(isinstance(d, Duals) for d in duals)
    if not fits or len(duals) != len(layout.shapes):
        raise ValueError(f"duals: takes one Duals per constraint ({len(layout.shapes)}), as in Solution.duals")
    try:
        mu = layout.table([d.mu.expand(shape) for d, shape in zip(duals, layout.shapes)], like)
        rho = layout.table([d.rho.expand(shape) for d, shape in zip(duals, layout.shapes)], like)
    except RuntimeError:
        found = f"of shapes {[tuple(d.mu.shape) for d in duals]}"
        raise ValueError(f"duals: {found} do not fit the constraints' {list(layout.shapes)}") from None
    mu = safeguard(lagrangian, layout, scaling.scaled_multipliers(mu))
    return mu, scaling.scaled_rho(rho) if layout.entries else like.new_ones(like.shape[0])


def violated(layout: Layout, y: Tensor) -> Tensor:
    """``c_+``: ``max(0, h)`` of inequalities, ``e`` of equalities, as a table."""
    return torch.cat([y[:, : layout.inequalities].clamp_min(0), y[:, layout.inequalities :]], 1)


def neighbourhood(state: SearchState) -> Tensor:
    """``max(1, ||z||_inf)`` of the scaled variable, for each variable in the user's units: ``(batch, n)``."""
    variables = state.scaling.variables
    return row_max(state.current.x / variables).clamp_min(1).unsqueeze(1) * variables


def kkt_report(state: SearchState, tolerance: float, feasibility: float) -> KKTReport:
    """The tests of the current point with the candidates as multipliers."""
    current, variables = state.current, state.scaling.variables
    move = state.domain.project(current.x - variables.square() * current.gradient) - current.x
    length = row_max(move / variables)
    size = current.objective.abs().clamp_min(1)
    products = (current.candidate * current.y).abs().sum(1) / state.scaling.objective
    lagrangian = current.gradient / state.scaling.objective.unsqueeze(1)
    gap = state.domain.frank_wolfe_gap(current.x, lagrangian, neighbourhood(state))
    met = violation_measure(current.y, current.candidate, state.layout.inequalities) <= tolerance
    stationary, feasible = length <= tolerance, current.violation <= feasibility
    product, flat = products <= tolerance * size, gap <= 10 * tolerance * size
    return KKTReport(length, products, stationary, feasible, complementary=met, product=product, gap=flat)


def update_duals(
    state: SearchState, lagrangian: AugmentedLagrangian, report: KKTReport, ended: Tensor, tolerance: float
) -> tuple[SearchState, Tensor, Tensor]:
    """The outer iteration of the ``ended`` rows (Alg. 4.1): the state, whose duals changed, and who may be infeasible.

    New multipliers move the minimum but leave the curvature, which rho dominates: the pairs stay unless rho changes.
    """
    schedule = lagrangian.schedule if isinstance(lagrangian.schedule, ProgressRho) else ProgressRho()
    factor = 1.0 if isinstance(lagrangian.schedule, ConstantRho) else schedule.factor
    current = state.current
    measure = violation_measure(current.y, state.mu / state.rho.unsqueeze(1), state.layout.inequalities)
    stagnant = ended & (measure > schedule.ratio * state.measure) & (measure > schedule.tolerance)
    stagnant = stagnant & ~(report.feasible & report.product)
    risen = torch.maximum((state.rho * factor).clamp_max(schedule.maximum), state.rho)
    rho = torch.where(stagnant, risen, state.rho)
    mixed = torch.lerp(current.candidate, state.mu, lagrangian.multiplier.ema)
    mu = torch.where(ended.unsqueeze(1), safeguard(lagrangian, state.layout, mixed), state.mu)
    changed = ended & ((mu != state.mu).any(1) | (rho != state.rho))
    # where only the product or the gap is too large, asking for the same accuracy again would change nothing
    settling = report.nearly & ~report.all
    finer = torch.where(settling, 0.1 * report.projected_gradient, (state.inner_tolerance / 10).clamp_min(tolerance))
    outer = state.outer + ended
    # with rho at its limit, products that no longer fall never will: the multipliers have no limit
    hopeless = report.feasible & ~report.product & (state.rho >= schedule.maximum)
    hopeless = hopeless & (report.products > 0.5 * state.products)
    state = replace(
        state, mu=mu, rho=rho, outer=outer, pairs=state.pairs.clear(rho != state.rho),
        inner_tolerance=torch.where(ended, finer, state.inner_tolerance), inner=torch.where(ended, 0, state.inner),
        measure=torch.where(ended, measure, state.measure),
        products=torch.where(ended, report.products, state.products),
        approached=state.approached | (ended & report.nearly & ~report.product),
        futile=torch.where(ended, torch.where(hopeless, state.futile + 1, 0), state.futile),
        anchor=torch.where(ended.unsqueeze(1), current.x, state.anchor),
        spectral_step=torch.where(changed, state.spectral_step / 10, state.spectral_step),
    )  # fmt: skip
    return state, changed, stagnant & ~report.feasible & (outer >= DOUBT_FROM)


def turn_back(state: SearchState, rows: Tensor) -> SearchState:
    """For rows that ran away while violated: from the last outer point once more with 100 times the penalty."""
    rho = torch.where(rows, state.rho * 100, state.rho)
    return replace(state, rho=rho, returns=state.returns + rows, pairs=state.pairs.clear(rows))


def judge_feasibility(
    state: SearchState, lagrangian: AugmentedLagrangian, gradient: Tensor, checked: Tensor, tolerance: float
) -> tuple[SearchState, Tensor, Tensor]:
    """Count the signs of infeasibility of the ``checked`` rows from the ``gradient`` of ``||c_+||^2 / 2``.

    Two in a row: the first time start again elsewhere under a larger rho (``restart``), the second time believe it
    (``infeasible``). Returns the state and both.
    """
    squares = violated(state.layout, state.current.y).square().sum(1) / 2
    sign = infeasible_stationary(state.domain, state.current.x, gradient, squares, 10 * neighbourhood(state))
    strikes = torch.where(checked, torch.where(sign, state.strikes + 1, 0), state.strikes)
    struck = checked & (strikes >= 2)
    restart, infeasible = struck & (state.restarts == 0), struck & (state.restarts > 0)
    mu, _ = initial_duals(lagrangian, state.layout, state.scaling, state.start.y, state.start.objective)
    state = replace(
        state, restarts=state.restarts + restart, pairs=state.pairs.clear(restart),
        mu=torch.where(restart.unsqueeze(1), mu, state.mu), rho=torch.where(restart, 100 * state.first_rho, state.rho),
        inner_tolerance=torch.where(restart, tolerance**0.5, state.inner_tolerance),
        outer=torch.where(restart, 0, state.outer), measure=torch.where(restart, torch.inf, state.measure),
        spectral_step=torch.where(restart, 0, state.spectral_step), strikes=torch.where(restart, 0, strikes),
    )  # fmt: skip
    return state, infeasible, restart


def second_start(domain: FlatDomain, x: Tensor) -> Tensor:
    """Another start, some 10 % away: the same for the same row in every batch and run."""
    index = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=torch.float64)
    signs = (2 * (index * 0.6180339887498949).frac() - 1).to(x)
    return domain.project(x + 0.1 * x.abs().clamp_min(1) * signs)


def _is_phr(lagrangian: AugmentedLagrangian) -> bool:
    return get(lagrangian.penalty).name == "PHR"
