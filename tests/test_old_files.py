"""What was written before the packages were rebuilt is still read: a bundle of format 2, made at commit 9122418."""

import json
from pathlib import Path

import pytest

import cxrlines

OLD = Path(__file__).parent / "golden/old_bundle"


def test_a_bundle_made_before_gives_what_it_gave():
    expected = json.loads((OLD / "expected.json").read_text("utf-8"))
    findings = cxrlines.load_reader(OLD / "bundle").read(OLD / "film.jpg").as_dict()
    assert findings["labels"] == pytest.approx(expected["labels"], abs=1e-4)
    assert findings["presence"] == pytest.approx(expected["presence"], abs=1e-4)
    assert len(findings["lines"]) == expected["lines"]
