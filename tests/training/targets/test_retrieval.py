"""The retrieval target: its loss against NumPy, what it calls alike, and that it draws like films together."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from cxrlines.core.heatmaps import DrawnLine
from cxrlines.models.classifier import Classifier
from cxrlines.recipe.spec.recipe import MemberSpec
from cxrlines.task import DEVICE_OF, LABELS, Device, State, label_of
from cxrlines.training.config import ScheduleSpec, StageConfig
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.module import StageModule
from cxrlines.training.outputs import Outputs
from cxrlines.training.targets import LabelTarget, RetrievalTarget, TargetsSpec
from cxrlines.training.targets.base import FilmsSpec
from cxrlines.training.targets.retrieval import label_similarity, retrieval_loss, tip_nearness, tip_places

from ..small_stages import MemoryStore

NAN = float("nan")
RNG = np.random.default_rng(0)


def films_of(count: int) -> dict[str, np.ndarray]:
    """Labels with unknown ones, up to two tips of a device on half the films, and some carinas."""
    labels = RNG.integers(0, 2, (count, len(LABELS))).astype(np.float32)
    labels[0], labels[1, 3:5] = 0, NAN
    tips = RNG.random((count, len(Device), 2, 2)).astype(np.float32)
    tips[count // 2 :], tips[1, :, 1], tips[2, 0] = NAN, NAN, NAN
    carina = RNG.random((count, 2)).astype(np.float32)
    carina[::3] = NAN
    return {"labels": labels, "tips": tips, "carina": carina}


def nearness_by_hand(tips: np.ndarray, carina: np.ndarray, reach: float) -> np.ndarray:
    """Pair by pair, tip by tip."""
    count, devices = tips.shape[:2]
    near = np.full((count, count, devices), NAN)
    for i in range(count):
        for j in range(count):
            both = np.isfinite(carina[[i, j]]).all()
            moved = [np.where(np.isfinite(tips[f]), tips[f] - (carina[f] if both else 0), NAN) for f in (i, j)]
            for d in range(devices):
                a, b = ([tip for tip in one[d] if np.isfinite(tip).all()] for one in moved)
                if a and b and i != j:
                    there = np.mean([min(np.hypot(*(p - q)) for q in b) for p in a])
                    back = np.mean([min(np.hypot(*(p - q)) for p in a) for q in b])
                    near[i, j, d] = np.exp(-(there + back) / 2 / reach)
    for d in range(devices):
        known = near[..., d][np.isfinite(near[..., d])]
        near[..., d] = np.where(np.isfinite(near[..., d]), near[..., d], known.mean() if len(known) else 1)
    return near


def loss_by_hand(embedding: np.ndarray, labels: np.ndarray, near: np.ndarray, temperature: float) -> float:
    values = []
    for i in range(len(labels)):
        alike, cosines = [], []
        for j in range(len(labels)):
            known = np.isfinite(labels[i]) & np.isfinite(labels[j])
            if i == j or not known.any():
                continue
            a, b = (np.where(known, labels[f], 0) for f in (i, j))
            counts = [near[i, j, list(Device).index(DEVICE_OF[label])] for label in LABELS]
            either = np.maximum(a, b).sum()
            alike.append((np.minimum(a, b) * counts).sum() / either if either else 1.0)
            cosines.append(embedding[i] @ embedding[j])
        wanted, found = (np.exp(np.array(x) / temperature) for x in (alike, cosines))
        wanted, found = wanted / wanted.sum(), found / found.sum()
        values.append((wanted * np.log(wanted / found)).sum())
    return float(np.mean(values))


def batch_of(films: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in films.items()}


def value(target: RetrievalTarget, embedding: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    ((weight, sums),) = target.losses(SimpleNamespace(embedding=embedding), batch)
    return weight * sums.value()


def embeddings(count: int, channels: int = 5) -> torch.Tensor:
    return functional.normalize(torch.from_numpy(RNG.normal(size=(count, channels)).astype(np.float32)))


@pytest.mark.parametrize("tips", [0.1, 0.5, None])
def test_the_loss_is_what_it_says_pair_by_pair(tips: float | None) -> None:
    films, embedding = films_of(9), embeddings(9)
    films["labels"][4] = NAN  # a film of which nothing is known
    target = RetrievalTarget(tips=tips, temperature=0.2)
    near = nearness_by_hand(films["tips"], films["carina"], tips) if tips else np.ones((9, 9, len(Device)))
    some = [film for film in range(9) if film != 4]
    by_hand = loss_by_hand(embedding.numpy()[some], films["labels"][some], near[np.ix_(some, some)], 0.2)
    assert float(value(target, embedding, batch_of(films))) == pytest.approx(by_hand, rel=1e-4)


def test_the_order_of_films_is_of_no_matter_and_their_parts_add_up() -> None:
    films, embedding = films_of(8), embeddings(8)
    order = torch.from_numpy(RNG.permutation(8))
    batch = batch_of(films)
    whole = value(RetrievalTarget(), embedding, batch)
    turned = value(RetrievalTarget(), embedding[order], {name: values[order] for name, values in batch.items()})
    assert float(turned) == pytest.approx(float(whole), rel=1e-5)
    similarity = label_similarity(batch["labels"])
    every = retrieval_loss(embedding, similarity, 0.1)
    parts = [retrieval_loss(embedding, similarity, 0.1, part) for part in (slice(0, 3), slice(3, 8))]
    assert float(sum(part.total for part in parts)) == pytest.approx(float(every.total), rel=1e-5)
    assert float(sum(part.count for part in parts)) == float(every.count) == 8


def test_a_film_alone_and_films_of_which_nothing_is_known_teach_nothing() -> None:
    labels = torch.full((3, len(LABELS)), NAN)
    labels[0] = 1
    for some in (labels, labels[:1]):
        embedding = embeddings(len(some)).requires_grad_()
        loss = value(RetrievalTarget(tips=None), embedding, {"labels": some})
        loss.backward()
        assert float(loss.detach()) == 0 and not embedding.grad.any()


def test_similarity_of_labels_by_hand() -> None:
    labels = torch.zeros(5, len(LABELS))
    labels[0, [2, 9]] = 1
    labels[1, [2, 9]] = 1
    labels[2, [2, 8]] = 1
    labels[4, 2] = NAN
    similarity = label_similarity(labels)
    assert similarity[0, 1] == 1 and similarity[0, 2] == pytest.approx(1 / 3) and similarity[0, 3] == 0
    assert similarity[3, 3] == 1 and similarity[3, 4] == 1 and similarity[0, 4] == 0, "neither has any of what is known"
    assert torch.equal(similarity, similarity.T)


def test_places_of_tips_are_shares_of_the_film_and_the_last_points_of_lines() -> None:
    line = np.array([[5.0, 5.0], [20.0, 10.0]])
    tips = tip_places(
        [
            [
                DrawnLine(LABELS[0], line),
                DrawnLine(LABELS[9], line * 2),
                DrawnLine(LABELS[8], line),
                DrawnLine(LABELS[0], line, tip_seen=False),
                DrawnLine(label_of(Device.NGT, State.INCOMPLETE), line),
            ],
            [],
        ],
        (40, 20),
    )
    assert tips.shape == (2, len(Device), 2, 2) and np.isnan(tips[1]).all()
    assert tips[0, 0].tolist()[0] == [0.5, 0.5] and tips[0, 2].tolist() == [[1.0, 1.0], [0.5, 0.5]]
    assert np.isnan(tips[0, 0, 1]).all() and np.isnan(tips[0, [1, 3]]).all()
    assert tip_places([[], []], (40, 20)).shape == (2, len(Device), 1, 2)


def test_tips_count_from_the_carina_where_both_films_have_one() -> None:
    tips = torch.full((3, len(Device), 1, 2), NAN)
    tips[:, 0, 0] = torch.tensor([[0.5, 0.4], [0.6, 0.6], [0.5, 0.4]])
    carina = torch.tensor([[0.5, 0.5], [0.6, 0.7], [NAN, NAN]])
    near = tip_nearness(tips, carina, 0.1)[..., 0]
    assert near[0, 1] == pytest.approx(1) and near[0, 2] == pytest.approx(1)
    assert near[1, 2] == pytest.approx(np.exp(-np.hypot(0.1, 0.2) / 0.1), rel=1e-4)
    assert (tip_nearness(tips, carina, 0.1)[..., 1:] == 1).all(), "none is known of the others"


def precision_at_1(embedding: torch.Tensor, groups: torch.Tensor) -> float:
    cosine = embedding @ embedding.T
    nearest = cosine.fill_diagonal_(-2).argmax(dim=1)
    return float((groups[nearest] == groups).float().mean())


def test_films_of_equal_labels_are_drawn_together_and_then_those_of_near_tips() -> None:
    groups = torch.arange(24) % 3
    labels = torch.zeros(24, len(LABELS))
    labels[torch.arange(24), groups * 4] = 1
    halves = torch.arange(24) // 3 % 2
    tips = torch.full((24, len(Device), 1, 2), NAN)
    tips[:, :, 0] = torch.where(halves > 0, 0.2, 0.8)[:, None, None]
    for reach, wanted in ((None, groups), (0.1, groups * 2 + halves)):
        free = torch.randn(24, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        optimizer = torch.optim.Adam([free], lr=0.1)
        before = precision_at_1(functional.normalize(free.detach()), wanted)
        batch = {"labels": labels, "tips": tips, "carina": torch.full((24, 2), NAN)}
        for _ in range(40):
            optimizer.zero_grad()
            value(RetrievalTarget(tips=reach), functional.normalize(free), batch).backward()
            optimizer.step()
        assert before < 0.7 and precision_at_1(functional.normalize(free.detach()), wanted) == 1


STORE = MemoryStore(RNG.integers(0, 256, (12, 40, 40), dtype=np.uint8))


def stage(targets: TargetsSpec) -> StageModule:
    films = films_of(12)
    known = Films(STORE, np.arange(12), films.pop("labels"), [[]] * 12, films)
    torch.manual_seed(0)
    model = Classifier("resnet10t", "gap", weights="none")
    config = StageConfig(ScheduleSpec(epochs=12, batch=12, lr=1e-3), targets)
    return StageModule(model, config, FilmSet(known, "none", 32, seed=0), None, view="plain")


def test_a_stage_learns_it_beside_the_labels_or_alone() -> None:
    plain = stage(TargetsSpec(labels=LabelTarget())).fit()
    both = stage(TargetsSpec(labels=LabelTarget(), retrieval=RetrievalTarget(weight=0.2))).fit()
    assert not torch.equal(plain["backbone.net.conv1.0.weight"], both["backbone.net.conv1.0.weight"])
    module = stage(TargetsSpec(retrieval=RetrievalTarget()))
    head = {name: t.clone() for name, t in module.model.head.state_dict().items()}
    module.fit()
    losses = [row["loss"] for row in module.progress.history]
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(t, head[name]) for name, t in module.model.head.state_dict().items())


def test_the_embedding_is_the_one_that_is_searched() -> None:
    module = stage(TargetsSpec(retrieval=RetrievalTarget()))
    module.model.eval()
    batch = module.films.collate([module.films[(0, film)] for film in range(3)])
    with torch.inference_mode():
        wanted = functional.normalize(module.model.features(batch["film"]).mean(dim=(2, 3)))
        assert torch.equal(Outputs(module, batch).embedding, wanted)


def test_what_contradicts_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"targets.retrieval: films of the external set 'b' have no labels"):
        TargetsSpec(retrieval=RetrievalTarget()).check(FilmsSpec(set="b"), {})
    stages = {"near": {"targets": {"retrieval": {}}}, "last": {"start": "near"}}
    MemberSpec.model_validate({"backbone": "resnet10t", "stages": stages})
    with pytest.raises(ValueError, match=r"stages\.near\.targets names retrieval alone"):
        MemberSpec.model_validate({"backbone": "resnet10t", "stages": {"near": stages["near"]}})
    with pytest.raises(ValueError, match=r"films\.mixup is 0\.2, but targets\.retrieval is not learnt"):
        TargetsSpec(retrieval=RetrievalTarget()).check(FilmsSpec(mixup=0.2), {})
    stages["near"] |= {"schedule": {"batch": 4, "accumulate": 4}}
    with pytest.raises(ValueError, match=r"stages\.near\.schedule\.accumulate is 4: a micro-batch has one film"):
        MemberSpec.model_validate({"backbone": "resnet10t", "stages": stages})
    for field, wrong in (("temperature", 0), ("tips", 0), ("tips", 2)):
        with pytest.raises(ValueError, match=field):
            RetrievalTarget.model_validate({field: wrong})
