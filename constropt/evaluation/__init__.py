"""Run recipes over data sets: verified per-sample results, counts of model passes, tables, figures, files."""

from constropt.evaluation.data import KINDS, LabelledData, MissingExtra, load_data
from constropt.evaluation.model import load_model, load_weights, save_weights
from constropt.evaluation.outputs import write_evaluation
from constropt.evaluation.plots import plot_curve, plot_grid
from constropt.evaluation.references import load_recipe, load_reference, recipe_entries
from constropt.evaluation.report import CONVENTIONS, AttackReport
from constropt.evaluation.reproduce import reproduce, write_reproduction
from constropt.evaluation.rounding import round_to_8_bits
from constropt.evaluation.run import evaluate
from constropt.evaluation.sharded import Evaluation, run_evaluation
from constropt.evaluation.signs import Sign
from constropt.evaluation.specs import RecipeSpec, parse_recipe
from constropt.evaluation.store import read_results, write_adversarial, write_results, write_summary
from constropt.evaluation.tables import results_table
from constropt.evaluation.targets import choose_targets

__all__ = [
    "CONVENTIONS",
    "KINDS",
    "AttackReport",
    "Evaluation",
    "LabelledData",
    "MissingExtra",
    "RecipeSpec",
    "Sign",
    "choose_targets",
    "evaluate",
    "load_data",
    "load_model",
    "load_recipe",
    "load_reference",
    "load_weights",
    "parse_recipe",
    "plot_curve",
    "plot_grid",
    "read_results",
    "recipe_entries",
    "reproduce",
    "results_table",
    "round_to_8_bits",
    "run_evaluation",
    "save_weights",
    "write_adversarial",
    "write_evaluation",
    "write_reproduction",
    "write_results",
    "write_summary",
]
