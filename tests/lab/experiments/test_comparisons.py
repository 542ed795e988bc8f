"""The table of the claims: intervals by hand, verdicts, seconds."""

import json

import numpy as np
import pytest

from cxrlines.lab.experiments.comparisons import Row, World, student_interval, table_of


def row(differences, over_patients=(0.001, 0.02)) -> Row:
    against = [0.9] * len(differences)
    arm = [0.9 + difference for difference in differences]
    mean = float(np.mean(differences))
    over = student_interval(np.array(differences))
    return Row(1, "?", "a", "b", "+", list(range(len(arm))), arm, against, mean, over, over_patients, None)


def test_students_interval_by_hand():
    """1, 2 and 3: mean 2, deviation 1, t(.975; 2) = 4.302653, half width 4.302653 / sqrt(3) = 2.484138."""
    low, high = student_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    assert student_interval(np.array([1.0])) is None


@pytest.mark.parametrize(
    ("differences", "over_patients", "verdict"),
    [
        ([0.01, 0.02, 0.01], (0.001, 0.02), "better"),
        ([-0.01, -0.02, -0.01], (-0.02, -0.001), "worse"),
        ([0.01, -0.001, 0.03], (0.001, 0.02), "no clear difference"),
        ([0.01, 0.0, 0.03], (0.001, 0.02), "no clear difference"),
        ([0.01, 0.02, 0.01], (-0.001, 0.02), "no clear difference"),
        ([0.01], (0.001, 0.02), "open: 1 of 3 seeds"),
        ([0.01, 0.02], (0.001, 0.02), "open: 2 of 3 seeds"),
        ([0.01, 0.02, 0.01], None, "no clear difference"),
    ],
)
def test_a_verdict_needs_every_seed_and_the_patients_interval(differences, over_patients, verdict):
    assert row(differences, over_patients).verdict == verdict


def test_the_table_says_by_seed_and_leaves_out_what_is_not_known():
    text = table_of([row([0.01]), row([0.01, 0.03])]).splitlines()
    assert text[2].startswith("| 1 | ? | 0.9100 | 0.9000 | +0.0100 | - | +0.0010 to +0.0200 | +0.0100 |")
    assert (
        "| 0.9200 | 0.9000 | +0.0200 | -0.1071 to +0.1471 |" in text[3]
        and "| +0.0100, +0.0300 | open: 2 of 3 seeds |" in text[3]
    )
    assert len({line.count("|") for line in text}) == 1


def test_seconds_are_those_of_all_folds_and_of_a_members_own_inner_steps(tmp_path):
    def step(name: str, seconds: float, **parents: str) -> None:
        folder = tmp_path / "run" / name
        folder.mkdir(parents=True)
        (folder / "step.json").write_text(json.dumps({"seconds": seconds, "parents": parents}))

    step("two/fold0/lines", 1)
    step("two/fold0+1/lines", 10)
    step("two/fold0/last", 100, maps="two/fold0/lines", **{"maps 1": "two/fold0+1/lines"})
    step("two/fold1/last", 1000, **{"maps 0": "two/fold0+1/lines", "soft 0": "one/fold0+1/only"})
    step("one/fold0+1/only", 10_000)
    step("one/fold0/only", 100_000)
    world = World(tmp_path)
    assert (world.seconds("two"), world.seconds("one")) == (1111, 100_000)
