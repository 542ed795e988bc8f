import copy
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxrlines.augment.policy import make_policy
from cxrlines.core.findings import Findings
from cxrlines.io.films import read_film
from cxrlines.io.prepare import shrink
from cxrlines.reading.batch import predict
from cxrlines.reading.bundle import Bundle, BundleError, Manifest, ModelEntry, StoreEntry
from cxrlines.reading.engines import pytorch
from cxrlines.reading.reader import Reader, allowed_views
from cxrlines.task import LABELS

SIZE = 64


class Linear(nn.Module):
    """Logits linear in the pixels; symmetric by construction where it looks at a film and its mirror image alike."""

    labels = LABELS

    def __init__(self, seed: int, symmetric: bool) -> None:
        super().__init__()
        weight = torch.randn(SIZE * SIZE, len(LABELS), generator=torch.Generator().manual_seed(seed)).double()
        self.weight, self.symmetric = nn.Parameter(weight / SIZE), symmetric

    def forward(self, x: Tensor) -> Tensor:
        x = x.double() / 255
        if self.symmetric:
            x = (x + x.flip(-1)) / 2
        return x.flatten(1) @ self.weight


def bundle_of(tmp_path: Path, *models: nn.Module, sizes: tuple[int | None, ...] = (), **meta: object) -> Bundle:
    sizes = sizes or (None,) * max(1, len(models))
    manifest = Manifest(
        store=StoreEntry(size=96, aspect="pad"),
        input_size=SIZE,
        models=tuple(
            ModelEntry(name="m", fold=k, file=f"m-fold{k}.safetensors", config={}, input_size=size)
            for k, size in enumerate(sizes)
        ),
        files={},
        meta=meta,
    )
    MODELS[id(manifest)] = models
    return Bundle(tmp_path, manifest, "0" * 12)


MODELS: dict[int, Sequence[nn.Module]] = {}


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine takes the models of `bundle_of`."""
    monkeypatch.setattr(pytorch, "load_models", lambda bundle: copy.deepcopy([*MODELS[id(bundle.manifest)]]))


def film(seed: int = 0, shape: tuple[int, int] = (150, 120)) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "films").mkdir()
    for i in range(5):
        cv2.imwrite(str(tmp_path / f"films/{i}.png"), film(i))
    return tmp_path / "films"


def scores(folder: Path, bundle: Bundle, **options: object) -> np.ndarray:
    return predict([folder], bundle, **options).rows[list(LABELS)].to_numpy()  # type: ignore[arg-type]


def test_a_symmetric_model_reads_the_same_with_flips_and_another_does_not(folder: Path, tmp_path: Path) -> None:
    even = bundle_of(tmp_path, Linear(0, True), Linear(1, True), flip=True)
    np.testing.assert_allclose(scores(folder, even, tta=["flip"]), scores(folder, even), atol=1e-12)
    odd = bundle_of(tmp_path, Linear(0, False), Linear(1, True), flip=True)
    assert np.abs(scores(folder, odd, tta=["flip"]) - scores(folder, odd)).max() > 0.01


def test_views_are_averaged_as_by_hand(folder: Path, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, Linear(0, False), Linear(1, False), flip=True)
    got = predict([folder], bundle, tta=["flip"], batch_size=2)
    assert got.tta == ("flip",) and next(got.each_dict())["tta"] == ["flip"]
    for path, row in zip(got.films, got.rows[list(LABELS)].to_numpy(), strict=True):
        stored, _ = shrink(read_film(path).pixels, 96, "pad")
        x = torch.from_numpy(make_policy("none", SIZE)(stored, np.random.default_rng(0)).film)[None, None]
        with torch.inference_mode():
            each = [
                torch.sigmoid(model(view)) for model in MODELS[id(bundle.manifest)] for view in (x, torch.flip(x, [-1]))
            ]
        np.testing.assert_allclose(row, torch.stack(each).mean(0)[0].numpy(), atol=1e-12)


def test_views_are_one_set_in_any_order_and_none_is_the_plain_reading(folder: Path, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, Linear(0, False), flip=True)
    both = scores(folder, bundle, tta=["flip", "scale"])
    np.testing.assert_array_equal(scores(folder, bundle, tta=("scale", "flip", "scale")), both)
    np.testing.assert_array_equal(scores(folder, bundle, tta=()), scores(folder, bundle))
    np.testing.assert_allclose(scores(folder, bundle, tta=["flip", "scale"], batch_size=2), both, atol=1e-12)
    # of four views, the plain one and the flipped one are half
    half = scores(folder, bundle, tta=["flip"])
    plain, scaled = scores(folder, bundle), scores(folder, bundle, tta=["scale"])
    np.testing.assert_allclose(4 * both, 2 * half + 3 * scaled - plain, atol=1e-12)


def test_a_film_is_decoded_once_whatever_the_views(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def counted(path: Path) -> object:
        decoded.append(path)
        return read_film(path)

    monkeypatch.setattr("cxrlines.reading.reader.read_film", counted)
    scores(folder, bundle_of(tmp_path, Linear(0, False), flip=True), tta=["flip", "scale"])
    assert len(decoded) == len(set(decoded)) == 5


@pytest.mark.parametrize("tta", [(), ("flip",), ("flip", "scale")])
def test_arrays_are_read_as_their_files_are(folder: Path, tmp_path: Path, tta: tuple[str, ...]) -> None:
    bundle = bundle_of(tmp_path, Linear(0, False), Linear(1, True), flip=True)
    arrays = [read_film(path).pixels for path in sorted(folder.iterdir())]
    found = Reader(bundle, batch_size=2, tta=tta).read_many(iter(arrays))
    got = [list(each.labels.values()) for each in found if isinstance(each, Findings) and each.labels]
    np.testing.assert_allclose(got, scores(folder, bundle, tta=tta), atol=1e-12)
    assert list(Reader(bundle).read_many([])) == []


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"flip": False}, "bundle.json: its models were trained without flips (meta.flip is false)"),
        (
            {},
            "bundle.json: it does not say that its models were trained with flips (meta.flip); `cxrlines bundle`",
        ),
        ({"flip": "yes"}, "it does not say that its models were trained with flips"),
    ],
)
def test_flips_are_refused_where_training_had_none(
    folder: Path, tmp_path: Path, meta: dict[str, object], says: str
) -> None:
    bundle = bundle_of(tmp_path, Linear(0, True), **meta)
    for read in (lambda: predict([folder], bundle, tta=["flip"]), lambda: Reader(bundle, tta=["flip"])):
        with pytest.raises(BundleError) as error:
            read()
        assert says in str(error.value) and str(error.value).endswith("leave out the view 'flip'")
    assert len(scores(folder, bundle, tta=["scale"])) == 5


def test_other_views_are_named(folder: Path, tmp_path: Path) -> None:
    assert allowed_views(bundle_of(tmp_path, flip=True), ["scale", "flip", "scale"]) == ("flip", "scale")
    with pytest.raises(ValueError, match="no view is called 'rotate'; test-time augmentation has flip and scale"):
        predict([folder], bundle_of(tmp_path, Linear(0, True)), tta=["rotate"])
    with pytest.raises(ValueError, match="no view is called 'f'"):
        Reader(bundle_of(tmp_path, Linear(0, True)), tta="flip")
    assert predict([folder], bundle_of(tmp_path, Linear(0, True))).tta == ()


def test_each_model_sees_films_of_its_own_size(folder: Path, tmp_path: Path) -> None:
    class Side(nn.Module):
        """Says of every film how large it is."""

        labels = LABELS

        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), len(LABELS)), float(x.shape[-1] * x.shape[-2]) / 10_000).double()

    bundle = bundle_of(tmp_path, Side(), Side(), sizes=(None, 80))
    assert bundle.sizes == (SIZE, 80)
    wanted = torch.sigmoid(torch.tensor([SIZE**2 / 10_000, 0.64], dtype=torch.float64)).mean()
    np.testing.assert_allclose(scores(folder, bundle), np.full((5, len(LABELS)), float(wanted)))
