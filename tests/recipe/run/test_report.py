"""The notes of a run's report: what makes its figures too good."""

from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from cxrlines.evaluation.scores import evaluate
from cxrlines.recipe.run.report import _notes, _scored
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import LABELS


def notes_of(recipe: Recipe) -> list[str]:
    run = SimpleNamespace(recipe=recipe, groups=SimpleNamespace(text=lambda: ""))
    return _notes(run, [], pd.Series([2, 2]), dict.fromkeys(recipe.members))


@pytest.mark.parametrize(
    ("schedule", "chosen"),
    [({}, False), ({"keep": "last"}, False), ({"keep": "best"}, True), ({"patience": 2}, True)],
)
def test_an_epoch_chosen_on_the_fold_that_is_scored_is_noted(schedule: dict, chosen: bool) -> None:
    stages = {"first": {"schedule": schedule}, "last": {"start": "first"}}
    members = {
        name: {"backbone": "resnet10t", "stages": of} for name, of in {"plain": {"only": {}}, "chooser": stages}.items()
    }
    notes = notes_of(Recipe.model_validate({"name": "test", "members": members}))
    assert [note.split()[0] for note in notes] == ["chooser"] * chosen
    assert all("out-of-fold figures are a little too good" in note for note in notes)


MADE_FROM = {
    "start": "{start: chooser/only}",
    "soft labels": "{targets: {soft: {of: chooser}}}",
    "features": "{films: {which: annotated}, targets: {labels: {}, features: {of: teacher}}}",
    "heatmaps": "{targets: {labels: {}, soft_maps: {of: chooser/only}}}",
    "maps": "{films: {maps_of: teacher}}",
}


@pytest.mark.parametrize("made_from", MADE_FROM)
def test_whatever_is_made_from_such_a_stage_is_noted_with_its_name(made_from: str) -> None:
    chooser, other = "{schedule: {keep: best}, targets: {labels: {}, maps: {}}}", "{}"
    teacher = {
        "features": "teacher: {films: {which: annotated, view: overlay}, schedule: {patience: 2}}, ",
        "maps": "teacher: {targets: {labels: {}, maps: {}}, schedule: {patience: 2}}, ",
    }.get(made_from, "")
    text = f"""
name: test
members:
  chooser: {{backbone: resnet10t, stages: {{only: {chooser if not teacher else other}}}}}
  child: {{backbone: resnet10t, stages: {{{teacher}first: {MADE_FROM[made_from]}, last: {{start: first
    {", films: {maps_of: teacher}" if made_from == "maps" else ""}}}}}}}
  alone: {{backbone: resnet10t, stages: {{only: {{}}}}}}
"""
    notes = {note.split()[0]: note for note in notes_of(Recipe.model_validate(yaml.safe_load(text)))}
    assert set(notes) == ({"child"} if teacher else {"chooser", "child"})
    assert ("child/teacher" if teacher else "chooser/only") in notes["child"]


def test_of_the_published_system_both_multi_head_members_are_noted() -> None:
    notes = [note.split()[0] for note in notes_of(load_recipe("hotwater"))]
    assert notes == ["multi-head", "multi-head-soft"]


def test_test_films_that_are_not_predicted_are_counted() -> None:
    truth = pd.DataFrame({"study": list("abc"), "patient": list("pqr")} | {label: [0, 1, 0] for label in LABELS})
    predictions = {"ensemble": pd.DataFrame({"study": list("ab")} | {label: [0.2, 0.7] for label in LABELS})}
    found = {
        whole: _scored(predictions, SimpleNamespace(studies=truth), "films", pd.Series([1, 1]), whole=whole)
        for whole in (True, False)
    }
    for whole, missing in ((True, 1), (False, 0)):  # a fold that was not trained is no film that was left out
        assert evaluate(predictions["ensemble"], found[whole].truth, resamples=2).not_predicted == missing
