"""Quoted values and the nearest of the known names."""

from typing import Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field, ValidationError

from cxrlines.core.text import did_you_mean, must_be, plural, shown


def test_shown_is_quoted_and_cut_to_its_length():
    assert shown("a'b") == repr("a'b")
    assert shown("x" * 50, 10) == f"'{'x' * 7}...'"
    assert shown(3) == "'3'"


def test_a_count_agrees_with_its_noun():
    assert [plural(count, "film") for count in (0, 1, 2, 1200)] == ["0 films", "1 film", "2 films", "1,200 films"]
    assert [plural(count, "study", "studies") for count in (1, 30_083)] == ["1 study", "30,083 studies"]
    assert [plural(count, "epoch") for count in (1.0, 0.5, 12.0)] == ["1 epoch", "0.5 epochs", "12 epochs"]
    assert plural(np.int64(1_234_567), "row") == "1,234,567 rows"


@pytest.mark.parametrize(("name", "near"), [("learning_rat", "learning_rate"), ("EPOCHS", "epochs"), ("qqq", "")])
def test_did_you_mean_names_the_nearest_whatever_its_case(name, near):
    found = did_you_mean(name, ["epochs", "learning_rate"])
    assert found == (f" (did you mean {near!r}?)" if near else "")


class Fields(BaseModel):
    names: tuple[str, ...] = ()
    group: dict[str, int] = Field(default_factory=dict)
    loss: Literal["focal", "bce"] = "bce"
    port: int = Field(1, le=65535)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"names": "one"}, "must be a list in brackets, such as [1, 2]"),
        ({"group": None}, "must be fields with their values"),
        ({"loss": "focl"}, "must be 'focal' or 'bce' (did you mean 'focal'?)"),
        ({"port": 70000}, "must be less than or equal to 65535"),
        ({"port": "x"}, "must be a valid integer"),
    ],
)
def test_what_a_field_must_be_is_said_without_types_of_python(given, words):
    with pytest.raises(ValidationError) as caught:
        Fields.model_validate(given)
    assert must_be(caught.value.errors()[0]) == words
