"""No library sends out what is done with it: what they send by default is switched off before they are imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cxrlines

ROOT = Path(cxrlines.__file__).resolve().parents[1]
SWITCHES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
FROM_ELSEWHERE = (*SWITCHES, "DISABLE_TELEMETRY", "DO_NOT_TRACK")


def run(home: Path, *words: str, **variables: str) -> str:
    """What Python prints in a user's home of its own, none of whose folders is named by a variable."""
    kept = {n: value for n, value in os.environ.items() if n not in FROM_ELSEWHERE and not n.startswith("XDG_")}
    environment = kept | {"HOME": str(home), "PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_reading_leaves_nothing_in_the_home(tmp_path):
    """ONNX Runtime made an identifier of the device there, and a database of what it sends to its maker."""
    assert "Carina found" in run(tmp_path, "-m", "cxrlines", "predict", "--example")
    assert list(tmp_path.iterdir()) == []


def test_the_package_switches_telemetry_off_before_anything_of_it_is_imported(tmp_path):
    script = "import json, os, cxrlines.core; print(json.dumps(dict(os.environ)))"
    found = json.loads(run(tmp_path, "-c", script))
    assert {name: found.get(name) for name in SWITCHES} == dict.fromkeys(SWITCHES, "1")


def test_what_the_user_sets_stays(tmp_path):
    script = "import os, cxrlines; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert run(tmp_path, "-c", script, ORT_DISABLE_TELEMETRY="0").split() == ["0"]
