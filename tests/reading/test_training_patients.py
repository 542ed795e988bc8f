"""Whom a bundle has seen: always known again, never told to who opens the bundle."""

import json

import pytest
import torch

from cxrlines.io.patients import CUT, key_name, tokens
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import save_weights
from cxrlines.reading.bundle import BundleError, load_bundle
from cxrlines.reading.bundle_writing import BundleMember, write_bundle
from cxrlines.reading.training_patients import (
    SEEN,
    has_other_sites,
    is_training_patient,
    patients_text,
    training_patients,
)

PATIENTS = [f"patient {k}" for k in range(500)]


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory):
    """A bundle of one model a fold, with this text as `seen.json`, or without one."""
    folder = tmp_path_factory.mktemp("seen")
    torch.manual_seed(0)
    model = Classifier("resnet10t", "gap", weights="none")
    save_weights(folder / "w.safetensors", model.state_dict(), {})
    members = [BundleMember("a", fold, model.config(), folder / "w.safetensors") for fold in (0, 1)]
    way = {"store": {"size": 80, "aspect": "pad"}, "input_size": 64, "meta": {}}

    def make(text):
        further = None if text is None else {SEEN: text}
        return load_bundle(write_bundle(folder / "bundle", members, further=further, onnx=False, **way))

    return make


def text_of(*folds, key="site"):
    """As `recipes.pack` writes it, of the patients of each fold."""
    keys = [tokens(patients, key_name(key)) for patients in folds]
    return patients_text({f"a-fold{k}.safetensors": each for k, each in enumerate(keys)})


def test_every_patient_that_any_model_saw_is_known_and_few_others_are_taken_for_one(bundle_of):
    seen = training_patients(bundle_of(text_of(PATIENTS[:300], PATIENTS[200:])))
    assert all(is_training_patient(patient, seen) for patient in PATIENTS)
    others = sum(is_training_patient(f"someone else {k}", seen) for k in range(20_000))
    assert others < 40  # 20,000 * 500 / 16 ** 5 = 9.5 are expected


def test_a_bundle_has_no_whole_key_of_a_patient_in_it(bundle_of):
    bundle = bundle_of(text_of(PATIENTS, []))
    files = [path.read_bytes() for path in bundle.folder.iterdir() if path.suffix == ".json"]
    assert len(files) == 2
    for token in [*tokens(PATIENTS, key_name()), *tokens(PATIENTS, "sha256")]:
        assert not any(token.partition(":")[2].encode() in content for content in files)
    seen = json.loads((bundle.folder / SEEN).read_text())["a-fold0.safetensors"]
    assert list(seen) == [key_name()] and {len(digits) for digits in seen[key_name()]} == {CUT}
    bare = {token.partition(":")[2][:CUT] for token in tokens(PATIENTS, "sha256")}
    assert len(bare & set(seen[key_name()])) < 10, "cut bare hashes would be all of them"


def test_bare_hashes_of_earlier_bundles_and_published_keys_are_read(bundle_of):
    bare = [token.partition(":")[2][:CUT] for token in tokens(PATIENTS, "sha256")]
    old = training_patients(
        bundle_of(json.dumps({"a-fold0.safetensors": bare[:300], "a-fold1.safetensors": bare[200:]}))
    )
    for seen in (old, training_patients(bundle_of(text_of(PATIENTS, [], key="ranzcr")))):
        assert all(is_training_patient(patient, seen) for patient in PATIENTS) and not has_other_sites(seen)
        assert sum(is_training_patient(f"someone else {k}", seen) for k in range(2_000)) < 12


def test_patients_of_another_site_cannot_be_compared(bundle_of, monkeypatch, tmp_path):
    seen = training_patients(bundle_of(text_of(PATIENTS, [])))
    assert not has_other_sites(seen)
    monkeypatch.setenv("CXRLINES_SITE_KEY", str(tmp_path / "none.key"))
    assert has_other_sites(seen) and not is_training_patient(PATIENTS[0], seen)


def test_a_bundle_that_does_not_tell_is_not_one_that_has_seen_nobody(bundle_of):
    assert training_patients(bundle_of(None)) is None
    assert training_patients(bundle_of(text_of([], []))) == frozenset()


@pytest.mark.parametrize(
    "text",
    ["[", "[]", '{"a-fold0.safetensors": []}', '{"a-fold0.safetensors": ["0123456789"], "a-fold1.safetensors": []}'],
)
def test_a_list_of_another_form_is_refused(bundle_of, text):
    with pytest.raises(
        BundleError, match=r"seen\.json: does not list the patients each model has seen .*export it again"
    ):
        training_patients(bundle_of(text))
