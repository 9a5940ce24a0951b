"""Recipes with options as text: what they mean, that the text is injective, and that nothing in it is executed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constropt.lab.runs.specs import RecipeSpec, parse_options, parse_recipe

TEXTS = st.text('ab1.,=[]{}" \\n\u00e9-', max_size=6)  # what the syntax is made of
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
NAMES = st.text("abcdefgh_", min_size=1, max_size=5)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_the_canonical_text_reads_back(options):
    spec = RecipeSpec("package.module:attack", options)
    again = parse_recipe(str(spec))
    assert again == spec and hash(again) == hash(spec) and json.loads(json.dumps(again.options)) == again.options
    assert again.options == options and again.reference == spec.reference


@given(st.dictionaries(NAMES, VALUES, max_size=3), st.dictionaries(NAMES, VALUES, max_size=3))
def test_different_options_have_different_texts(first, second):
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (str(RecipeSpec("a", first)) == str(RecipeSpec("a", second))) == same


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("pgd", {}),
        ("pgd[]", {}),
        ("pgd[eps=0.3, loss=dlr]", {"eps": 0.3, "loss": "dlr"}),
        ("pgd[step-size=1e-3,on=true,loss=targeted dlr]", {"step_size": 1e-3, "on": True, "loss": "targeted dlr"}),
        ('pgd[a=[1,{"b": "],"}],c="x,y"]', {"a": [1, {"b": "],"}], "c": "x,y"}),
        ("pgd[budget=9x100]", {"budget": "9x100"}),
        ("pgd[call=__import__('os')]", {"call": "__import__('os')"}),
    ],
)
def test_what_texts_mean(text, options):
    spec = parse_recipe(text)
    assert spec.reference == "pgd" and dict(spec.options) == options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pgd[eps=1", r"takes NAME or NAME\[KEY=VALUE"),
        ("[eps=1]", "takes NAME or NAME"),
        ("pgd[eps]", "takes KEY=VALUE"),
        ("pgd[eps=1,eps=2]", "eps is given twice"),
        ("pgd[e ps=1]", "takes KEY=VALUE"),
        ("pgd[eps=]", "takes JSON or plain text"),
        ("pgd[eps=[1,]", "no valid JSON"),
        ("pgd[loss=a=b]", "takes JSON or plain text, got 'a=b'"),
        ("pgd[eps=1]x]", "takes JSON or plain text"),
    ],
)
def test_bad_texts(text, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(text)


def test_labels_are_for_people():
    assert parse_recipe("a.b:attack[loss=ce,eps=1]").label == "attack[eps=1,loss=ce]"
    assert parse_options(["a=1", "b=[1, 2]"]) == {"a": 1, "b": [1, 2]}
    with pytest.raises(ValueError, match="has a flag of its own"):
        parse_options(["eps=1"], {"eps"})
