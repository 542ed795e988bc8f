"""Tables of a hospital group's size: time of a processor and memory of the commands that read them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxrlines.task import LABELS

FILMS, PATIENTS = 300_000, 32_000
MEASURED = """
import json, os, resource, sys
from pathlib import Path
{code}
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
seconds = sum(each.ru_utime + each.ru_stime for each in used)
# Not ru_maxrss, which begins at the size of the process that started this one.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({{"seconds": seconds, "mb": int(peak.split()[1]) / 1024, "found": found}}))
"""
FOLDS = """
from cxrlines.io.folds import describe_folds, make_folds, write_folds
from cxrlines.io.tables import read_labels
table = read_labels(Path("train.csv"))
folds = make_folds(table, 5, 0)
write_folds(table, folds, Path("folds.csv"))
found = describe_folds(table, folds).deviation
"""
CHECK = """
from cxrlines.io.audit import audit
result = audit(Path("."), Path("folds.csv"))
found = {"kinds": result.as_dict()["kinds"], "text": len(result.text())} | result.counts
"""
EVALUATE = """
from cxrlines.evaluation.predictions import read_predictions, read_truth
from cxrlines.evaluation.scores import evaluate
found = evaluate(read_predictions(Path("predictions.csv")), read_truth(Path("train.csv"))).as_dict()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic tables: most patients with few films, some with thousands; rare and frequent labels."""
    root = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    share = rng.pareto(1.5, PATIENTS) + 0.2
    patient = np.r_[np.arange(PATIENTS), rng.choice(PATIENTS, FILMS - PATIENTS, p=share / share.sum())]
    usual = np.linspace(-5.5, 0.8, len(LABELS))
    odds = usual + rng.normal(0, 1, (PATIENTS, len(LABELS)))[patient]
    truth = (rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(int)
    studies = [f"1.2.826.0.1.3680043.8.498.{number:030d}" for number in rng.permutation(FILMS)]
    table = pd.DataFrame(truth, columns=list(LABELS))
    table.insert(0, "StudyInstanceUID", studies)
    scores = 1 / (1 + np.exp(1 - 2 * truth - rng.normal(0, 1.2, truth.shape)))
    table.assign(**dict(zip(LABELS, scores.round(6).T, strict=True))).to_csv(root / "predictions.csv", index=False)
    table.assign(PatientID=[f"{each * 7919:09x}" for each in patient]).to_csv(root / "train.csv", index=False)
    return root


def measured(folder: Path, code: str) -> dict[str, Any]:
    """Runs code in a process of its own: seconds of a processor, peak MB, and what the code calls `found`."""
    command = [sys.executable, "-c", MEASURED.format(code=code)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    print(f"{result['seconds']:.1f} s, {result['mb']:.0f} MB")
    return result


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_folds_check_and_figures_of_300_000_films(folder):
    """Bounds are those asked for; half of the time is usual."""
    folds = measured(folder, FOLDS)
    assert folds["found"] < 0.01 and folds["seconds"] < 10 and folds["mb"] < 1000
    check = measured(folder, CHECK)
    assert check["found"]["studies"] == FILMS and check["found"]["patients"] == PATIENTS
    assert "patient in two folds" not in check["found"]["kinds"]
    assert check["seconds"] < 15 and check["mb"] < 1000
    figures = measured(folder, EVALUATE)
    low, high = figures["found"]["ci95"]
    assert figures["found"]["films"] == FILMS and low < figures["found"]["macro_auc"] < high < low + 0.01
    assert figures["seconds"] < 30 and figures["mb"] < 1000
