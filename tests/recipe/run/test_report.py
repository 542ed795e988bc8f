"""The notes of a run's report: what makes its figures too good."""

from types import SimpleNamespace

import pandas as pd
import pytest

from cxrlines.recipe.run.report import _notes
from cxrlines.recipe.spec.recipe import MemberSpec


@pytest.mark.parametrize(
    ("schedule", "chosen"),
    [({}, False), ({"keep": "last"}, False), ({"keep": "best"}, True), ({"patience": 2}, True)],
)
def test_an_epoch_chosen_on_the_fold_that_is_scored_is_noted(schedule: dict, chosen: bool) -> None:
    stages = {"first": {"schedule": schedule}, "last": {"start": "first"}}
    members = {
        name: MemberSpec.model_validate({"backbone": "resnet10t", "stages": of})
        for name, of in {"plain": {"only": {}}, "chooser": stages}.items()
    }
    run = SimpleNamespace(recipe=SimpleNamespace(members=members), groups=SimpleNamespace(text=lambda: ""))
    notes = _notes(run, [], pd.Series([2, 2]), dict.fromkeys(members))  # type: ignore[arg-type]
    assert [note.split()[0] for note in notes] == ["chooser"] * chosen
    assert all("out-of-fold figures are a little too good" in note for note in notes)
