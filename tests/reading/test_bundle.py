import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings, strategies
from hypothesis import given as drawn
from PIL import Image

from cxrlines import cli
from cxrlines.core import files
from cxrlines.io.prepare import PREPARATION
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import load_weights, save_weights
from cxrlines.reading.bundle import MANIFEST, BundleError, load_bundle
from cxrlines.reading.bundle_writing import BundleMember, Fitted, with_manifest, write_bundle
from cxrlines.reading.engines.pytorch import load_models
from cxrlines.task import LABELS, MAPS

Member = Callable[[str, int], BundleMember]
WAY = {"store": {"size": 80, "aspect": "pad"}, "input_size": 64, "meta": {"trained on": "phantom"}, "onnx": False}


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Member:
    folder = tmp_path_factory.mktemp("run")

    def make(name: str, fold: int) -> BundleMember:
        torch.manual_seed(fold)
        model = Classifier("resnet10t", "gap", weights="none")
        path = folder / f"{name}-{fold}.safetensors"
        save_weights(path, model.state_dict(), {"lineage": "patient p1, patient p2"})
        return BundleMember(name, fold, model.config(), path)

    return make


@pytest.fixture
def written(member: Member, tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", [member("a", 0), member("a", 1)], **WAY)


NEWER = {"preparation": PREPARATION + 1}


def _edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def test_a_bundle_gives_back_the_models_and_how_to_feed_them(member: Member, tmp_path: Path) -> None:
    members = [member("b", 1), member("a", 0)]
    bundle = load_bundle(write_bundle(tmp_path / "deep" / "bundle", members, **WAY))
    assert [(m.name, m.fold) for m in bundle.manifest.models] == [("b", 1), ("a", 0)]
    assert (bundle.manifest.store.size, bundle.manifest.store.aspect, bundle.manifest.input_size) == (80, "pad", 64)
    assert bundle.manifest.labels == LABELS and bundle.manifest.meta == {"trained on": "phantom"}
    for model, given in zip(load_models(bundle), members, strict=True):
        state = model.state_dict()
        assert not model.training
        assert all(torch.equal(state[name], t) for name, t in load_weights(given.weights)[0].items())


def test_a_bundle_is_safetensors_and_json_says_what_it_is_for_and_carries_no_lineage_of_patients(written: Path) -> None:
    assert sorted(p.name for p in written.iterdir()) == ["a-fold0.safetensors", "a-fold1.safetensors", MANIFEST]
    content = json.loads((written / MANIFEST).read_text())
    assert "Not a medical device" in content["notice"] and content["format"] == 8
    assert not any(b"patient p1" in path.read_bytes() for path in written.iterdir())
    assert [p.name for p in written.parent.iterdir()] == ["bundle"]


def test_the_same_members_make_the_same_bundle(member: Member, written: Path, tmp_path: Path) -> None:
    again = write_bundle(tmp_path / "again", [member("a", 0), member("a", 1)], **WAY)
    other = write_bundle(tmp_path / "other", [member("a", 1), member("a", 0)], **WAY)
    assert load_bundle(again).identity == load_bundle(written).identity != load_bundle(other).identity


def test_writing_again_replaces_a_bundle_but_nothing_else(member: Member, written: Path, tmp_path: Path) -> None:
    write_bundle(written, [member("c", 0)], **WAY)
    assert [m.name for m in load_bundle(written).manifest.models] == ["c"]
    assert sorted(p.name for p in written.iterdir()) == [MANIFEST, "c-fold0.safetensors"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="precious exists and is not a bundle; name another place"):
        write_bundle(precious, [member("c", 0)], **WAY)
    assert (precious / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("harm", [None, b"{", b"[]"], ids=["whole", "cut short", "a list"])
def test_what_lies_in_a_bundle_s_folder_besides_is_not_removed(
    member: Member, written: Path, harm: bytes | None
) -> None:
    if harm:
        (written / MANIFEST).write_bytes(harm)
        for path in written.glob("*.safetensors"):
            path.unlink()
    (written / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in written.iterdir()}
    with pytest.raises(BundleError, match=r"notes\.txt"):
        write_bundle(written, [member("c", 0)], **WAY)
    if harm is None:
        with pytest.raises(BundleError, match=r"notes\.txt"):
            with_manifest(load_bundle(written), load_bundle(written).manifest, written)
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before
    (written / "notes.txt").unlink()
    write_bundle(written, [member("c", 0)], **WAY)
    assert [entry.name for entry in load_bundle(written).manifest.models] == ["c"]


def test_a_write_that_fails_leaves_the_older_bundle_and_no_pieces(
    member: Member, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_bundle(written).identity

    def disk_full(path: Path) -> None:
        if path.name == MANIFEST:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(written, [member("c", 0)], **WAY)
    assert load_bundle(written).identity == before
    assert [p.name for p in written.parent.iterdir()] == ["bundle"]


def test_what_cannot_be_bundled_is_said(member: Member, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="at least one trained model"):
        write_bundle(tmp_path / "b", [], **WAY)
    with pytest.raises(BundleError, match=r"two members of the bundle would be a-fold0.safetensors"):
        write_bundle(tmp_path / "b", [member("a", 0), member("a", 0)], **WAY)
    given = member("a", 0)
    other = BundleMember("a", 0, given.config | {"head": "attention"}, given.weights)
    with pytest.raises(BundleError, match=r"a, fold 0: the weights do not fit the model"):
        write_bundle(tmp_path / "b", [other], **WAY)
    with pytest.raises(BundleError, match=r"field store.aspect is 'square': Input should be 'pad' or 'stretch'"):
        write_bundle(tmp_path / "b", [given], **WAY | {"store": {"size": 80, "aspect": "square"}})
    with pytest.raises(BundleError, match=r"field input_size is '0': Input should be greater than or equal to 16"):
        write_bundle(tmp_path / "b", [given], **WAY | {"input_size": 0})
    with pytest.raises(BundleError, match=r"field models.0.file is '\.\./a-fold0\.safetensors'"):
        write_bundle(tmp_path / "b", [BundleMember("../a", 0, given.config, given.weights)], **WAY)
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_changed_or_gone_is_named(written: Path) -> None:
    path = written / "a-fold1.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=rf"a-fold1.safetensors has {len(whole) - 1} bytes where {len(whole)} were"):
        load_bundle(written)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"a-fold1.safetensors has other content .* copy the bundle again"):
        load_bundle(written)
    path.unlink()
    with pytest.raises(BundleError, match=r"'a-fold1.safetensors' is missing"):
        load_bundle(written)


@pytest.mark.parametrize("name", [MANIFEST, "a-fold1.safetensors"])
def test_a_file_that_cannot_be_read_is_named(written: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def forbidden(path: Path) -> bytes:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(BundleError) as raised:
        load_bundle(written)
    assert str(written / name) in raised.value.what and "Permission denied" in raised.value.what
    assert "permissions" in raised.value.way_out


def test_the_way_out_is_not_part_of_what_is_wrong(written: Path, tmp_path: Path) -> None:
    (written / "a-fold1.safetensors").unlink()
    for folder in (written, tmp_path / "nothing"):
        with pytest.raises(BundleError) as raised:
            load_bundle(folder)
        assert raised.value.way_out and raised.value.way_out not in raised.value.what


def test_a_newer_format_asks_for_a_newer_program(written: Path) -> None:
    _edit(written, lambda content: content.update(format=9, anything="new"))
    with pytest.raises(BundleError, match=r"format 9 is newer than this cxrlines .* \(up to 8\); update cxrlines"):
        load_bundle(written)
    _edit(written, lambda content: (content.update(format=3), content.pop("anything"), content["store"].update(NEWER)))
    with pytest.raises(BundleError) as told:
        load_bundle(written)
    assert str(PREPARATION + 1) in told.value.what and told.value.way_out == "update cxrlines"


def test_a_bundle_of_the_first_format_is_still_read(member: Member, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", [member("a", 0)], **WAY, fitted=Fitted(calibration={LABELS[0]: (2.0, 1.0)}))

    def older(content: dict[str, Any]) -> None:
        content["format"] = 1
        del content["fold_calibration"], content["store"]["preparation"], content["maps"]

    _edit(folder, older)
    bundle = load_bundle(folder)
    manifest = bundle.manifest
    assert manifest.fold_calibration is None and manifest.calibration == {LABELS[0]: (2.0, 1.0)}
    assert manifest.store.preparation == 1 and bundle.channels == MAPS


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/secret.safetensors", "a\\..\\b.safetensors", "a.pt"])
def test_a_manifest_cannot_name_a_file_outside_its_folder_or_of_another_kind(written: Path, name: str) -> None:
    (written.parent / "secret.safetensors").write_bytes((written / "a-fold0.safetensors").read_bytes())

    def point_elsewhere(content: dict[str, Any]) -> None:
        content["models"][0]["file"] = name
        content["files"][name] = content["files"]["a-fold0.safetensors"]

    _edit(written, point_elsewhere)
    with pytest.raises(BundleError, match=r"field models.0.file is .*: String should match pattern"):
        load_bundle(written)


def test_files_cannot_name_one_outside_either(written: Path) -> None:
    (written.parent / "secret").write_bytes(b"")
    _edit(written, lambda c: c["files"].update({"../secret": {"sha256": "0" * 64, "bytes": 0}}))
    with pytest.raises(BundleError, match=r"'../secret' is missing"):
        load_bundle(written)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(input_size="wide"), "field input_size is 'wide': Input should be a valid integer"),
        (lambda c: c.pop("store"), "field store is .*Field required"),
        (lambda c: c.update(models=[]), "field models is .* at least 1 item"),
        (lambda c: c.update(denied={"PICC": 0.1}), "field denied.PICC.* is not one of: ETT, NGT, CVC, SWAN"),
        (lambda c: c["maps"].append("tip CVC"), "field maps is .*'tip CVC' is named twice"),
        (lambda c: c.update(files={}), "files has no entry for a-fold[01].safetensors"),
        (lambda c: c.update(labels=c["labels"][::-1]), "its labels are not in the order of this task"),
        (lambda c: c["models"][0]["config"].update(backbone="hf-hub:x/y"), "'hf-hub:x/y' is not a timm model"),
        (lambda c: c["models"][0]["config"].update(colour="blue"), "a-fold0.safetensors: .*colour"),
        (lambda c: c["models"][0]["config"].update(in_channels=3, mean=[0], std=[1]), "mean: 1 values for 3"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_field(
    written: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    _edit(written, change)
    with pytest.raises(BundleError, match=said):
        load_models(load_bundle(written))


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"\xff\xfe\x00", b"[]", b'"x"'])
def test_a_manifest_that_is_none_is_refused(written: Path, text: bytes) -> None:
    (written / MANIFEST).write_bytes(text)
    with pytest.raises(BundleError, match=r"bundle.json"):
        load_bundle(written)


def test_another_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"it has no bundle.json. `cxrlines bundle RUN --out BUNDLE`"):
        load_bundle(tmp_path)


# -- whatever befalls a bundle on its way


def _cut(folder: Path) -> None:
    path = folder / "a-fold0.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _newer(folder: Path) -> None:
    _edit(folder, lambda content: content.update(format=9))


def _changed(folder: Path) -> None:
    data = bytearray((folder / "a-fold0.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "a-fold0.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_cut, "a-fold0.safetensors has 1000 bytes where"),
        (_newer, "bundle.json: format 9 is newer than this cxrlines"),
        (_changed, "a-fold0.safetensors has other content than was written"),
        (lambda folder: (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:100]), "it was cut short or"),
    ],
    ids=["cut short", "newer", "changed", "manifest cut short"],
)
def test_predict_says_in_one_line_what_is_wrong_with_a_bundle(
    written: Path,
    harm: Callable[[Path], None],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harm(written)
    film, out = written.parent / "film.png", written.parent / "p.csv"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(film)
    words = ["cxrlines", "predict", film, "--bundle", written, "--out", out]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and said in told and not out.exists()
    assert told.startswith("cxrlines: ") and len(told.strip().splitlines()) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@drawn(strategies.data())
def test_a_manifest_cut_or_changed_anywhere_is_a_bundle_or_an_error(written: Path, data: strategies.DataObject) -> None:
    whole = (written / MANIFEST).read_bytes()
    text = bytearray(whole)
    text[data.draw(strategies.integers(0, len(text) - 1))] = data.draw(strategies.integers(0, 255))
    (written / MANIFEST).write_bytes(
        text[: data.draw(strategies.one_of(strategies.just(len(text)), strategies.integers(0, len(text))))]
    )
    try:
        load_bundle(written)
    except BundleError as error:
        assert str(written) in str(error)
    finally:
        (written / MANIFEST).write_bytes(whole)
