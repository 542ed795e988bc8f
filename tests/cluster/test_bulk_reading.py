"""Films read on a cluster are read as on one machine: same rows, same order, same errors."""

import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cxrlines.cluster import connection
from cxrlines.cluster.bulk_reading import predict_on_ray
from cxrlines.cluster.connection import ClusterError
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import save_weights
from cxrlines.reading.batch import predict
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.bundle_writing import BundleMember, write_bundle
from cxrlines.task import LABELS

pytestmark = pytest.mark.doors

STORE = 80 * 2**20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = Classifier("resnet10t", "gap", weights="none")
    save_weights(folder / "0.safetensors", model.state_dict(), {})
    member = BundleMember("m", 0, model.config(), folder / "0.safetensors")
    return write_bundle(
        folder / "bundle", [member], store={"size": 96, "aspect": "pad"}, input_size=64, meta={}, onnx=False
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven films in two folders, two of one name; one that is refused, one that is damaged, and a table."""
    root = tmp_path_factory.mktemp("films")
    (root / "deep").mkdir()
    for index in range(11):
        pixels = np.random.default_rng(index).integers(0, 256, (90 + index, 80), dtype=np.uint8)
        name = f"deep/{index - 5}.png" if index > 7 else f"{index}.png"
        cv2.imwrite(str(root / name), cv2.GaussianBlur(pixels, (0, 0), 5) * 2)
    (root / "5a.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    cv2.imwrite(str(root / "deep/7.png"), np.zeros((90, 80), np.uint8))  # refused, and of one name with another
    (root / "table.csv").write_text("x")
    return root


def said(film: dict) -> dict:
    """What JSON says of a film, but for the time it took, and labels to what float sums in another order differ by."""
    labels = film["labels"] and {name: round(p, 5) for name, p in film["labels"].items()}
    presence = film["presence"] and {name: round(p, 5) for name, p in film["presence"].items()}
    return film | {"seconds": None, "labels": labels, "presence": presence}


@pytest.fixture
def one_core(monkeypatch):
    pytest.importorskip("ray", reason='needs Ray: pip install "cxrlines[ray]"')
    monkeypatch.setattr(connection, "cores", lambda: 1)
    monkeypatch.setattr(connection, "STORE_BYTES", STORE)


def test_a_cluster_reads_what_one_machine_reads(one_core, bundle, films, monkeypatch):
    monkeypatch.chdir(films.parent)  # sources as they are named, though workers have folders of their own
    sources = [Path(films.name), Path("nowhere.png")]
    calls = []
    here = predict(sources, load_bundle(bundle), batch_size=2)
    there = predict_on_ray(sources, bundle, "ray", batch_size=2, progress=lambda *done: calls.append(done))
    assert here.films == there.films and len(here.films) == 11
    assert here.rows["StudyInstanceUID"].tolist() == there.rows["StudyInstanceUID"].tolist()
    np.testing.assert_allclose(there.rows[list(LABELS)], here.rows[list(LABELS)], rtol=0, atol=1e-6)
    assert dict(here.errors) == dict(there.errors) and len(there.errors) == 3
    assert (here.skipped, here.renamed, here.bundle, here.tta) == (
        there.skipped,
        there.renamed,
        there.bundle,
        there.tta,
    )
    assert there.renamed > 0
    assert len(list(here.each_dict())) == 12 and list(here.each_dict())[-1]["StudyInstanceUID"] == "deep/7"
    assert list(map(said, here.each_dict())) == list(map(said, there.each_dict())), "the refused film among them"
    assert all(found.seconds > 0 for found in there.findings)
    assert calls[-1] == (13, 13)


def test_a_reading_by_a_cluster_goes_on(one_core, bundle, films, tmp_path):
    journal = tmp_path / "r.journal.jsonl"

    class Killed(Exception):
        pass

    def kill(done, count):
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        predict_on_ray([films], bundle, "ray", batch_size=2, journal=journal, progress=kill)
    here = predict([films], load_bundle(bundle), batch_size=2)
    there = predict_on_ray([films], bundle, "ray", batch_size=2, journal=journal, resume=True)
    assert 4 <= there.resumed <= 5 and here.studies == there.studies and here.errors == there.errors
    assert list(map(said, here.each_dict())) == list(map(said, there.each_dict()))


@pytest.mark.long
def test_two_machines_asked_from_outside_read_what_one_reads(bundle, films):
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "cxrlines[ray]"')
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = free.getsockname()[1]
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "ray_client_server_port": client}
    machines = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            machines.add_node(num_cpus=1, object_store_memory=STORE)
        here = predict([films], load_bundle(bundle), batch_size=2)
        there = predict_on_ray([films], bundle, f"ray://127.0.0.1:{client}", batch_size=2)
        assert here.films == there.films and here.errors == there.errors
        np.testing.assert_allclose(there.rows[list(LABELS)], here.rows[list(LABELS)], rtol=0, atol=1e-6)
    finally:
        ray.shutdown()
        machines.shutdown()


def test_an_address_that_does_not_answer_costs_no_reading(bundle, films):
    pytest.importorskip("ray", reason='needs Ray: pip install "cxrlines[ray]"')
    with pytest.raises(ClusterError, match=r"--on ray://127.0.0.1:1: no Ray cluster answers"):
        predict_on_ray([films], bundle, "ray://127.0.0.1:1")
