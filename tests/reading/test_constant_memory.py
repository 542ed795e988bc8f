"""What reading holds does not grow with the number of films: the figures of docs/experiments.md."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import save_weights
from cxrlines.reading.bundle_writing import BundleMember, write_bundle

PEAK = """
import re, sys
from pathlib import Path
from cxrlines.reading.batch import predict
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.results.prediction_files import write_predictions

folder, bundle, out = map(Path, sys.argv[1:])
got = predict([folder], load_bundle(bundle), lines=True, journal=out.with_suffix(".jsonl"))
write_predictions(got, out, as_json=True)
peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())  # getrusage has the parent's peak, too
print(len(got.films), int(peak[1]) // 1024)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network with heatmaps, small enough for thousands of films."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = Classifier("resnet10t", "gap", weights="none", decoder="unet")
    save_weights(folder / "0.safetensors", model.state_dict(), {})
    member = BundleMember("m", 0, model.config(), folder / "0.safetensors")
    return write_bundle(folder / "bundle", [member], store={"size": 64, "aspect": "pad"}, input_size=64, meta={})


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to know its peak memory")
@pytest.mark.timeout(3000)
def test_five_thousand_films_need_hardly_more_memory_than_one_thousand(bundle: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.png"
    pixels = np.random.default_rng(0).integers(0, 256, (96, 80), dtype=np.uint8)
    cv2.imwrite(str(film), cv2.GaussianBlur(pixels, (0, 0), 5) * 2)
    peaks = {}
    for count in (1000, 5000):
        folder, out = tmp_path / f"films{count}", tmp_path / f"{count}.csv"
        folder.mkdir()
        for k in range(count):
            (folder / f"{k:05}.png").symlink_to(film)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, folder, bundle, out], capture_output=True, text=True, check=True
        )
        read, peaks[count] = map(int, done.stdout.split())
        assert read == count == len(json.loads(out.with_suffix(".json").read_text()))
    print(f"peak memory: {peaks} MiB")
    assert peaks[5000] - peaks[1000] <= 4000 * 4 / 1024 + 10, "4 kB a film: its path, its name, its place"
