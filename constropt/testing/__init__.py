"""Law suites that search for a counterexample with hypothesis (``pip install 'constropt[test]'``)."""

from .declaration import check_declaration
from .domain import check_domain
from .penalties import check_penalty
from .prox import check_prox
from .search import Counterexample, LawViolation
from .solver import KnownProblem, check_solver, known_problems

__all__ = [
    "Counterexample", "KnownProblem", "LawViolation", "check_declaration", "check_domain", "check_penalty",
    "check_prox", "check_solver", "known_problems",
]  # fmt: skip
