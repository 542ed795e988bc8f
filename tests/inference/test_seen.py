"""Whom a bundle has seen: always known again, never told to who opens the bundle."""

import json

import pytest
import torch

from cxrlines.inference.bundle import BundleError, BundleMember, load_bundle, write_bundle
from cxrlines.inference.seen import DIGITS, SEEN, seen_by, seen_text, was_seen
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import save_weights
from cxrlines.training.lineage import Lineage

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
        return load_bundle(write_bundle(folder / "bundle", members, further=further, **way))

    return make


def text_of(*folds):
    """As `recipes.pack` writes it, of the patients of each fold."""
    keys = [Lineage.of("step", patients).seen() for patients in folds]
    return seen_text({f"a-fold{k}.safetensors": each for k, each in enumerate(keys)})


def test_every_patient_that_any_model_saw_is_known_and_few_others_are_taken_for_one(bundle_of):
    seen = seen_by(bundle_of(text_of(PATIENTS[:300], PATIENTS[200:])))
    assert all(was_seen(patient, seen) for patient in PATIENTS)
    others = sum(was_seen(f"someone else {k}", seen) for k in range(20_000))
    assert others < 40  # 20,000 * 500 / 16 ** 5 = 9.5 are expected


def test_a_bundle_has_no_whole_key_of_a_patient_in_it(bundle_of):
    bundle = bundle_of(text_of(PATIENTS, []))
    files = [path.read_bytes() for path in bundle.folder.iterdir() if path.suffix == ".json"]
    assert len(files) == 2
    for key in Lineage.of("step", PATIENTS).seen():
        assert not any(key.encode() in content for content in files)
    assert len(json.loads((bundle.folder / SEEN).read_text())["a-fold0.safetensors"][0]) == DIGITS


def test_a_bundle_that_does_not_tell_is_not_one_that_has_seen_nobody(bundle_of):
    assert seen_by(bundle_of(None)) is None
    assert seen_by(bundle_of(text_of([], []))) == frozenset()


@pytest.mark.parametrize(
    "text",
    ["[", "[]", '{"a-fold0.safetensors": []}', '{"a-fold0.safetensors": ["0123456789"], "a-fold1.safetensors": []}'],
)
def test_a_list_of_another_form_is_refused(bundle_of, text):
    with pytest.raises(BundleError, match=r"seen\.json: does not list the patients each model has seen .*pack it anew"):
        seen_by(bundle_of(text))
