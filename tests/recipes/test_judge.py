"""The guard of the judge: patients that a model has seen are left out, or said."""

import json

import cv2
import numpy as np
import pytest
import torch

from cxrlines.data.patients import tokens
from cxrlines.data.tables import read_dataset
from cxrlines.inference.bundle import BundleError, BundleMember, load_bundle, write_bundle
from cxrlines.inference.seen import SEEN, seen_text
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import save_weights
from cxrlines.phantom.backdrop import backdrop_patient
from cxrlines.recipes.judge import SEEN_PATIENT, judge, of_fold
from cxrlines.recipes.known import JudgeError, KnownFilm, KnownFilms, data_films


@pytest.fixture(scope="module")
def known(phantom) -> KnownFilms:
    return data_films(phantom)


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory):
    """A bundle of a small model a fold; each fold has seen these patients. None: it does not tell."""
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    model = Classifier("resnet10t", "gap", weights="none")
    save_weights(folder / "w.safetensors", model.state_dict(), {})

    def make(*seen, meta=None):
        members = [BundleMember("a", fold, model.config(), folder / "w.safetensors") for fold in range(2)]
        keys = {m.file: tokens(p, "phantom") for m, p in zip(members, seen, strict=False)}
        further = {SEEN: seen_text(keys)} if seen else None
        way = {"store": {"size": 80, "aspect": "stretch"}, "input_size": 64, "meta": meta or {}}
        return load_bundle(write_bundle(folder / "bundle", members, further=further, **way))

    return make


def test_films_of_patients_that_a_model_has_seen_are_left_out_and_counted(known, bundle_of):
    first = known.films[0].patient
    own = sum(film.patient == first for film in known.films)
    bundle = bundle_of([first, "another"], ["somebody"])
    told = judge(known, bundle, resamples=5)
    assert told.figures.films == len(known.films) - own and told.left_out[SEEN_PATIENT] == own
    assert told.models == ("a fold 0", "a fold 1")
    # The model of the other fold has not seen him.
    other = judge(known, of_fold(bundle, 1), resamples=5)
    assert other.figures.films == len(known.films) and SEEN_PATIENT not in other.left_out
    assert other.models == ("a fold 1",)
    assert f"left out: {own} films {SEEN_PATIENT}" in told.text()
    values = json.loads(json.dumps(told.as_dict()))
    assert values["left_out"] == told.left_out and values["presence"]["ETT"]["films"] == told.figures.films


def test_seen_patients_are_judged_only_when_asked_and_then_said(known, bundle_of):
    first = known.films[0].patient
    own = sum(film.patient == first for film in known.films)
    told = judge(known, bundle_of([first], []), report_seen=True, resamples=5)
    assert told.figures.films == len(known.films)
    assert f"{own} of these {len(known.films)} films are {SEEN_PATIENT}: the figures flatter" in told.text()


def test_a_patient_is_seen_under_the_name_of_his_backdrop(known, bundle_of):
    film = known.films[0]
    aliased = KnownFilm(film.path, "p", film.compare, (backdrop_patient("p"),))
    other = KnownFilm(film.path, "q", film.compare, (backdrop_patient("q"),))
    told = judge(KnownFilms([aliased, other], {}, ()), bundle_of([backdrop_patient("p")], []), resamples=5)
    assert told.figures.films == 1 and told.left_out == {SEEN_PATIENT: 1}


def test_films_are_drawn_with_the_truth_on_the_left(phantom, known, bundle_of, tmp_path):
    judge(known, bundle_of([], []), resamples=5, draw=tmp_path / "drawn")
    assert {path.stem for path in (tmp_path / "drawn").iterdir()} == {film.path.stem for film in known.films}

    def colour(sheet: np.ndarray) -> int:
        """Coloured px of the film, without the strip beside it."""
        return int((np.ptp(sheet[:, : sheet.shape[1] // 2].astype(int), axis=2) > 60).sum())

    with_lines = 0
    lines = read_dataset(phantom, "test").lines
    for film in known.films:
        sheet = cv2.imread(str(tmp_path / f"drawn/{film.path.stem}.png"))
        true, found = np.hsplit(sheet, 2)
        assert (colour(true) > 100) == bool(lines.get(film.path.stem)), film.path.stem
        assert colour(found) == 0, "an untrained network finds nothing"
        with_lines += film.path.stem in lines
    assert with_lines


def test_what_cannot_be_judged_is_said(known, bundle_of):
    with pytest.raises(JudgeError, match=r"does not tell which patients.*Pack it anew.*--seen report"):
        judge(known, bundle_of(), resamples=5)
    told = judge(known, bundle_of(meta={"ancestry_unknown": ["resnet.pth"]}), report_seen=True, resamples=5)
    assert "does not tell which patients it has seen" in told.text() and "resnet.pth" in told.text()
    everyone = [film.patient for film in known.films]
    with pytest.raises(JudgeError, match=r"all 8 films are of a patient.*one fold with --fold.*--seen report"):
        judge(known, bundle_of(everyone, []), resamples=5)
    with pytest.raises(BundleError, match="has no model of fold 7; it has folds 0, 1"):
        of_fold(bundle_of([], []), 7)


def test_an_unreadable_film_is_counted_and_costs_no_other(known, bundle_of, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no film")
    bad = KnownFilm(tmp_path / "bad.jpg", "p", known.films[0].compare)
    bundle = bundle_of([], [])
    told = judge(KnownFilms([bad, *known.films], {}, ()), bundle, resamples=5)
    assert told.left_out == {"not readable": 1}
    assert told.figures == judge(known, bundle, resamples=5).figures
    with pytest.raises(JudgeError, match=r"none of 1 films could be read, e\.g\. .*bad\.jpg"):
        judge(KnownFilms([bad], {}, ()), bundle)
