"""What a user types and means by it: a recipe with its options, ``fmn[alpha=2,steps=50]`` (values are JSON or text,
never code), a factory that is called with the arguments found for it by their names, a table of the thesis.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from constropt.near_names import near_names
from constropt.problems.references import load_recipe, load_reference


@dataclass(frozen=True)
class RecipeSpec:
    """A recipe by ``reference`` (an entry point's name or "module:function") and the ``options`` that it is given. Two
    are equal where their canonical texts, ``str(spec)``, are: options sorted, values as JSON.
    """

    reference: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self._text(self.reference, lambda value: json.dumps(value, sort_keys=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RecipeSpec) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def label(self) -> str:
        """The canonical text for people: the function without its module, texts without quotes.

        >>> RecipeSpec("package.module:attack", {"loss": "ce", "steps": 5}).label
        'attack[loss=ce,steps=5]'
        """
        plain = self.reference.rpartition(":")[2]
        return self._text(plain, lambda value: value if isinstance(value, str) else json.dumps(value, sort_keys=True))

    def _text(self, name: str, shown: Callable[[Any], str]) -> str:
        pairs = (f"{key}={shown(self.options[key])}" for key in sorted(self.options))
        return f"{name}[{','.join(pairs)}]" if self.options else name

    def load(self) -> Callable[..., Any]:
        """The recipe itself; raises as :func:`~constropt.problems.references.load_recipe`."""
        return load_recipe(self.reference)


def parse_recipe(text: str) -> RecipeSpec:
    """The recipe and options in ``NAME`` or ``NAME[KEY=VALUE,...]``, where a value is JSON, or text where it is not. A
    text that looks like JSON goes in double quotes, as does one with a comma or a bracket. Raises ``ValueError`` for
    brackets that do not close, a key that is no name or is given twice, and a value that begins like JSON and is none.

    >>> parse_recipe('pgd[eps=0.3,loss=dlr,size=null,pair=[1,2]]').options
    {'eps': 0.3, 'loss': 'dlr', 'size': None, 'pair': [1, 2]}
    >>> str(parse_recipe("fmn[steps=50,alpha=2]"))
    'fmn[alpha=2,steps=50]'
    """
    text = text.strip()
    reference, bracket, rest = text.partition("[")
    if not bracket:
        return RecipeSpec(text)
    if not rest.endswith("]") or not reference:
        raise ValueError(f"recipe: takes NAME or NAME[KEY=VALUE,...], got {text!r}")
    options: dict[str, Any] = {}
    rest = rest[:-1]
    while rest.strip():
        key, equals, rest = rest.partition("=")
        key = option_name(key)
        if not equals or not key.isidentifier():
            raise ValueError(f"recipe: takes KEY=VALUE between the brackets of {text!r}, got {key!r}")
        if key in options:
            raise ValueError(f"recipe: {key} is given twice in {text!r}")
        options[key], rest = _leading_value(rest, f"recipe: {key} in {text!r}")
    return RecipeSpec(reference, options)


def parse_options(given: Sequence[str], own_flags: frozenset[str] | set[str] = frozenset()) -> dict[str, Any]:
    """``KEY=VALUE`` texts as keywords: the value is JSON, or text where it is not (``penalty=P3``); ``ValueError`` for
    another form and for a key among ``own_flags``.

    >>> parse_options(["step-size=0.5", "penalty=P3"])
    {'step_size': 0.5, 'penalty': 'P3'}
    """
    options: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        key = option_name(key)
        if not equals or not key.isidentifier():
            raise ValueError(f"--option: takes key=value, got {text!r}")
        if key in own_flags:
            raise ValueError(f"--option: {key} has a flag of its own or is set by the evaluation")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError as error:
            if value[:1] in '[{"':
                raise ValueError(f"--option: {key} is no valid JSON ({error})") from None
            options[key] = value
    return options


def reference_of(function: Callable[..., Any]) -> str:
    """The "module:function" by which a user names ``function``, and manifests do.

    >>> reference_of(parse_recipe)
    'constropt.lab.runs.specs:parse_recipe'
    """
    return f"{function.__module__}:{function.__qualname__}"


def option_name(text: str) -> str:
    """The keyword that a user means: ``step-size`` is ``step_size``."""
    return text.strip().replace("-", "_")


def _leading_value(text: str, what: str) -> tuple[Any, str]:
    """The value that ``text`` begins with, and what follows the comma after it."""
    text = text.lstrip()
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        if text.startswith(("[", "{", '"')):
            raise ValueError(f"{what} is no valid JSON ({error})") from None
    else:
        after = text[end:].lstrip()
        if not after or after[0] == ",":
            return value, after[1:]
    value, _, after = text.partition(",")
    value = value.strip()
    if not value or any(character in value for character in '[]{}"='):
        raise ValueError(f"{what}: takes JSON or plain text, got {value!r}; put other text in double quotes")
    return value, after


def known(name: str, value: str, choices: Mapping[str, Any]) -> None:
    """``ValueError`` that lists near names unless ``value`` is among ``choices``."""
    if value not in choices:
        hint = near_names(value, choices, cutoff=0.4)
        raise ValueError(f"{name}: unknown name {value!r}{hint}; known are {', '.join(choices)}")


def made_network(spec: RecipeSpec, available: Mapping[str, Any], seed: int) -> nn.Module:
    """The network that the factory of ``spec`` makes of those of ``available`` that it takes, its weights drawn by
    ``seed``; the global generator is left as it was. Raises as :func:`call_with`, ``ValueError`` if it is no module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return module_of(load_reference(spec.reference, what="model"), available, spec, what="model")


def module_of(make: Any, available: Mapping[str, Any], spec: RecipeSpec, *, what: str) -> nn.Module:
    """What :func:`call_with` returns, or ``ValueError`` if that is no module."""
    found = call_with(make, available, spec, what=what)
    if not isinstance(found, nn.Module):
        raise ValueError(f"{what}: {spec.label} gave a {type(found).__name__}, not a torch.nn.Module")
    return found


def call_with(make: Any, available: Mapping[str, Any], spec: RecipeSpec, *, what: str) -> Any:
    """``make`` called with those of ``available`` that it takes, and the options of ``spec``, which come first. Raises
    ``ValueError``, beginning with ``what``, for what can't be called, an option that it does not take and a parameter
    that nothing is given for.
    """
    if not callable(make):
        raise ValueError(f"{what}: {spec.reference} is a {type(make).__name__}, not a factory")
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return make(**spec.options)
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        for name in spec.options:
            known(f"{what}: option of {spec.reference}", name, named)
    given = {name: value for name, value in available.items() if name in named} | dict(spec.options)
    fixed = (p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.default is p.empty)
    missing = [p.name for p in fixed if p.name not in given]
    if missing:
        cure = f"give {spec.reference}[{missing[0]}=...]"
        raise ValueError(f"{what}: {spec.reference} needs {', '.join(missing)}; {cure}")
    return make(**given)


def named_table(name: str, tables: Iterable[str]) -> str:
    """The one of ``tables`` meant, with or without "table-", in any case; ``ValueError``, with near names, for another.

    >>> named_table("V-1", ["table-V-1"]), named_table("table-v-1", ["table-V-1"])
    ('table-V-1', 'table-V-1')
    """
    by_lower = {table.lower(): table for table in tables}
    short = name.lower()
    found = by_lower.get(short, by_lower.get(f"table-{short}"))
    if found is None:
        full = name if short.startswith("table-") else f"table-{name}"
        hint = near_names(full, by_lower.values(), cutoff=0.7)
        raise ValueError(f"table: unknown {name!r}{hint}; known are {', '.join(by_lower.values())}")
    return found
