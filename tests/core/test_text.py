"""Quoted values and the nearest of the known names."""

import pytest

from cxrlines.core.text import did_you_mean, shown


def test_shown_is_quoted_and_cut_to_its_length():
    assert shown("a'b") == repr("a'b")
    assert shown("x" * 50, 10) == f"'{'x' * 7}...'"
    assert shown(3) == "'3'"


@pytest.mark.parametrize(("name", "near"), [("learning_rat", "learning_rate"), ("EPOCHS", "epochs"), ("qqq", "")])
def test_did_you_mean_names_the_nearest_whatever_its_case(name, near):
    found = did_you_mean(name, ["epochs", "learning_rate"])
    assert found == (f" (did you mean {near!r}?)" if near else "")
