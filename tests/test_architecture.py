"""The direction of imports, and what no file may do: read from the sources, so that nothing has to be run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "constropt"
FILES = sorted(PACKAGE.rglob("*.py"))

# The core: a part may import parts of its own or a lower layer. A new part has to be placed here, on purpose.
LAYERS = [
    {"checks", "files", "modes", "near_names", "precision", "rows", "weights"},
    {"plotting", "penalties", "prox", "masking", "constraint", "gradients"},
    {"domain", "duals", "evaluation"},
    {"problem", "splitting", "lagrangian"},
    {"features", "solution", "steps"},
    {"solvers"},
    {"solving"},
    {"training", "cooper"},
    {"testing"},
]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
FLOORS = {"core": 0, "problems": 1, "lab": 2}
# what each floor may stand on outside of constropt; more only inside functions, where an extra is asked for
LAB_PACKAGES = {"pyarrow", "rich", "typer", "safetensors"}
BRIDGES = {"streaming", "lightning"}
MAX_LINES, MAX_PARAMETERS = 350, 10


def name_of(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def part_of(name: str) -> str:
    """The second component: ``constropt.solvers.base`` belongs to ``solvers``; the root package to ``""``."""
    return name.partition(".")[2].partition(".")[0]


def is_typing_only(node: ast.AST) -> bool:
    test = getattr(node, "test", None)
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(test) if test is not None else False


def imports_of(path: Path, *, at_import_time: bool = False) -> set[str]:
    """The constropt modules that a file imports, those of functions included unless ``at_import_time``."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_import_time and (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_typing_only(node)
        ):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name_of(path).split(".")
                package = package if path.name == "__init__.py" else package[:-1]
                kept = package[: len(package) - node.level + 1]
                base = ".".join([*kept, base] if base else kept)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in MODULES else base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return {name for name in found if name == "constropt" or name.startswith("constropt.")}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def floor_of(name: str) -> int:
    """The floor that a module stands on; ``constropt.__main__`` is the door of the lab."""
    part = part_of(name)
    return FLOORS["lab" if part in ("lab", "__main__") else "problems" if part == "problems" else "core"]


def forbidden_imports(name: str, imports: set[str]) -> list[str]:
    """What the module ``name`` may not import, each with the reason."""
    own = part_of(name)
    wrong = []
    for other in sorted(imports):
        part = part_of(other)
        if floor_of(other) != floor_of(name):
            bad = floor_of(other) > floor_of(name)
        elif floor_of(name) > 0:
            bad = False
        elif part == "":  # the root package imports almost everything: reaching back to it is a cycle
            bad = own != ""
        elif own == "":
            bad = RANK[part] > RANK["solving"]
        else:
            bad = RANK[part] > RANK[own]
        if bad:
            wrong.append(f"{name} imports {other}")
    return wrong


def reached_by_string(name: str, source: str) -> list[str]:
    """Strings in code, docstrings aside, that name a module of a higher floor."""
    tree = ast.parse(source)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            for word in re.findall(r"constropt(?:\.\w+)+", node.value):
                if floor_of(word) > floor_of(name):
                    found.append(f"line {node.lineno}: {word}")
    return found


def test_every_part_has_a_layer():
    parts = {part_of(name) for name in MODULES} - {"", "problems", "lab", "__main__"}
    assert parts <= RANK.keys(), f"place {sorted(parts - RANK.keys())} in LAYERS"
    assert RANK.keys() <= parts, f"{sorted(RANK.keys() - parts)} are gone"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_point_down(path):
    assert forbidden_imports(name_of(path), imports_of(path)) == []
    assert reached_by_string(name_of(path), path.read_text(encoding="utf-8")) == []


def test_the_rule_catches_what_it_should():
    assert forbidden_imports("constropt.domain", {"constropt.problem"})
    assert forbidden_imports("constropt.problems.attacks.recipe", {"constropt.lab.attacks.run"})
    assert forbidden_imports("constropt.solvers.base", {"constropt"})
    assert forbidden_imports("constropt.testing.domain", {"constropt.problems"})
    assert not forbidden_imports("constropt.problems.attacks.recipe", {"constropt", "constropt.solvers.base"})
    assert not forbidden_imports("constropt.lab.cli", {"constropt.problems.attacks"})
    assert not forbidden_imports("constropt.solution", {"constropt.problem", "constropt.domain"})
    assert reached_by_string("constropt.solving", "load('constropt.problems.attacks:alma')")
    assert reached_by_string("constropt.problems.attacks", "import_module('constropt.lab.run')")
    assert not reached_by_string("constropt.solving", '"""See constropt.problems.attacks."""')


def test_importing_core_and_problems_loads_nothing_of_the_lab():
    # two modules are made of a package that brings some of these along
    names = sorted(name for name in MODULES if floor_of(name) < 2 and name.rpartition(".")[2] not in BRIDGES)
    code = f"import sys, importlib; [importlib.import_module(n) for n in {names!r}]; print(*sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(run.stdout.split())
    assert not {name.partition(".")[0] for name in loaded} & LAB_PACKAGES
    assert not {name for name in loaded if name.startswith("constropt.lab")}


def test_no_module_is_hidden_by_what_it_holds():
    """``constropt.solve`` cannot be both a module and the function in it."""
    hidden = [name for name in sorted(MODULES) if "." in name and name in exported_names()]
    assert hidden == []


def exported_names() -> set[str]:
    """The full names of what packages bind in their ``__init__``."""
    found = set()
    for name, path in MODULES.items():
        if path.name == "__init__.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    base = name if node.level else node.module
                    kept = [a for a in node.names if f"{base}.{a.name}" not in MODULES]
                    found |= {f"{name}.{alias.asname or alias.name}" for alias in kept}
    return found


def parameters_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    own = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return len([argument for argument in own if argument.arg not in ("self", "cls")])


def test_functions_take_few_parameters():
    many = {0: [], 1: [], 2: []}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and parameters_of(node) > MAX_PARAMETERS:
                many[floor_of(name)].append(f"{name}.{node.name}: {parameters_of(node)}")
    assert many[0] == []
    # the common part of the recipes' calls, written once for each of the two kinds of problem
    assert all(entry.startswith("constropt.problems.attacks.recipe.__call__") for entry in many[1]), many[1]
    assert len(many[2]) <= 5, many[2]


def test_no_import_cycles():
    graph = {name: imports_of(path, at_import_time=True) & MODULES.keys() - {name} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph[name]):
                # a submodule that imports its own package's __init__ is caught here as well: that is a cycle
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_problems_are_in_sight_at_the_top():
    link = ROOT / "problems"
    assert link.is_symlink() and link.resolve() == PACKAGE / "problems"
    assert not link.readlink().is_absolute()


FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def unsafe(source: str) -> list[str]:
    """Lines of ``source`` that could execute code from data."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]}
        else:
            names = set()
        if names & FORBIDDEN_MODULES:
            wrong.append(f"line {node.lineno}: imports {names & FORBIDDEN_MODULES}")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in FORBIDDEN_CALLS:
            wrong.append(f"line {node.lineno}: calls {called}")
        if called == "torch.load" and keywords.get("weights_only") != "True":
            wrong.append(f"line {node.lineno}: torch.load without weights_only=True")
        if called in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            wrong.append(f"line {node.lineno}: {called} without allow_pickle=False")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_file_executes_data(path):
    assert unsafe(path.read_text(encoding="utf-8")) == []


def test_unsafe_code_is_recognised():
    for source in ("import pickle", "eval('1')", "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)"):
        assert unsafe(source), source
    assert not unsafe("torch.load(f, weights_only=True)\nmodel.eval()\nnp.load(f, allow_pickle=False)")


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: split it by subject"
