"""A recipe with its options, as a user types it: ``fmn[alpha=2,steps=50]``. Values are JSON or text, never code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from constropt.lab.runs.references import load_recipe

_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class RecipeSpec:
    """A recipe by ``reference`` (an entry point's name or "module:function") and the ``options`` that it is given.

    ``str(spec)`` is its one canonical text: options sorted, values as JSON; two specs are equal where their texts are.
    """

    reference: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.options:
            return self.reference
        pairs = (f"{key}={json.dumps(self.options[key], sort_keys=True)}" for key in sorted(self.options))
        return f"{self.reference}[{','.join(pairs)}]"

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
        name = self.reference.rpartition(":")[2]
        pairs = (f"{key}={_plain(self.options[key])}" for key in sorted(self.options))
        return f"{name}[{','.join(pairs)}]" if self.options else name

    def load(self) -> Callable[..., Any]:
        """The recipe itself; raises as :func:`~constropt.lab.runs.references.load_recipe`."""
        return load_recipe(self.reference)


def parse_recipe(text: str) -> RecipeSpec:
    """The recipe and options in ``NAME`` or ``NAME[KEY=VALUE,...]``, where a value is JSON, or text where it is not.

    A text that looks like JSON goes in double quotes, as does one with a comma or a bracket. Raises ``ValueError`` for
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
    """``KEY=VALUE`` texts as keywords: the value is JSON, or text where it is not (``penalty=P3``).

    Raises ``ValueError`` for another form and for a key among ``own_flags``.

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
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        if text[:1] and text[:1] in '[{"':
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


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
