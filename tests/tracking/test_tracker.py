"""A tracker never raises, whatever it gets and wherever it writes; what went wrong is in its problems."""

import csv
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxrlines.tracking import tracker as tracker_module
from cxrlines.tracking.settings import TrackingSettings
from cxrlines.tracking.tracker import Tracker, flatten


def opened(folder: Path, *use: str, identity: str = "one") -> Tracker:
    return Tracker(TrackingSettings(use=use), run="m/fold0/teacher", group="demo", folder=folder, identity=identity)


def metrics_of(folder: Path) -> list[tuple[int, str, float]]:
    table = pd.read_csv(folder / "csv/metrics.csv")
    return list(table[["step", "metric", "value"]].itertuples(index=False, name=None))


def test_flatten_keeps_every_leaf_once():
    nested = {"a": {"b": 1, "c": {"d": True, "e": [1, {"f": None}]}}, "g": None, "h": {}, "i": Path("x"), "j": 0.5}
    assert flatten(nested) == {
        "a.b": 1,
        "a.c.d": True,
        "a.c.e": '[1, {"f": null}]',
        "g": "null",
        "h": "{}",
        "i": "x",
        "j": 0.5,
    }


def test_settings_are_logged_once_and_no_two_have_one_name(tmp_path):
    with opened(tmp_path, "csv") as tracker:
        with pytest.raises(ValueError, match=r"two settings are named films\.view"):
            tracker.settings({"films": {"view": "plain"}, "films.view": "overlay"})
        tracker.settings({"size": 512})
        for again in ({"size": None}, {"size": 512}, {"lr": 0.1}):
            with pytest.raises(ValueError, match="settings are logged once"):
                tracker.settings(again)
    assert (tmp_path / "csv/settings.csv").read_text() == "setting,value\nsize,512\n"
    assert tracker.problems == []


def test_csv_holds_what_was_logged(tmp_path):
    (tmp_path / "report.html").write_text("<p>été")
    with opened(tmp_path, "csv") as tracker:
        tracker.settings({"lr": 0.001, "films": {"view": 'over,"lay"'}})
        tracker.metrics({"loss": 0.1, "auc": None}, 1)
        tracker.metrics({"loss": 1 / 3, "bad": math.nan}, 2)
        tracker.text("lineage.json", '{"patients": ["a1"]}')
        tracker.file(tmp_path / "report.html")
    assert tracker.problems == []
    rows = metrics_of(tmp_path)
    assert rows[:2] == [(1, "loss", 0.1), (2, "loss", 1 / 3)]
    assert rows[2][:2] == (2, "bad") and math.isnan(rows[2][2])
    with (tmp_path / "csv/settings.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["setting", "value"], ["lr", "0.001"], ["films.view", 'over,"lay"']]
    assert json.loads((tmp_path / "csv/lineage.json").read_text()) == {"patients": ["a1"]}
    assert (tmp_path / "csv/report.html").read_bytes() == (tmp_path / "report.html").read_bytes()


def test_tensorboard_holds_what_was_logged(tmp_path):
    (tmp_path / "report.html").write_text("<p>")
    with opened(tmp_path, "tensorboard") as tracker:
        tracker.settings({"lr": 0.001, "views": "a|b"})
        for epoch in (1, 2, 3):
            tracker.metrics({"loss": 1 / epoch, "auc": 0.5 + epoch / 10}, epoch)
        tracker.text("recipe.yaml", "members:\n  a: 1")
        tracker.file(tmp_path / "report.html")
    assert tracker.problems == []
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, round(e.value, 5)) for e in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 0.33333)]
    assert [round(e.value, 5) for e in events.Scalars("auc")] == [0.6, 0.7, 0.8]
    shown = {
        tag.removesuffix("/text_summary"): events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
    }
    assert "| lr | 0.001 |" in shown["settings"] and "a&#124;b" in shown["settings"]
    assert "      a: 1" in shown["recipe.yaml"]  # as it is: indented for Markdown
    assert "report.html" in shown["report.html"] and (tmp_path / "tensorboard/report.html").is_file()


def test_a_resumed_run_goes_on_in_the_same_files_and_another_one_starts_anew(tmp_path):
    for identity, step in (("one", 1), ("one", 2)):
        with opened(tmp_path, "csv", "tensorboard", identity=identity) as tracker:
            tracker.metrics({"loss": 0.5}, step)
    assert [row[0] for row in metrics_of(tmp_path)] == [1, 2]
    assert [e.step for e in EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")] == [1, 2]
    (tmp_path / "keep.txt").write_text("not a tracker's")
    with opened(tmp_path, "csv", "tensorboard", identity="other") as tracker:
        tracker.metrics({"loss": 0.5}, 7)
    assert [row[0] for row in metrics_of(tmp_path)] == [7]
    assert [e.step for e in EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")] == [7]
    assert (tmp_path / "keep.txt").is_file()


@pytest.mark.parametrize("torn", ["2,lo", "2,loss,0.4,17954470", "step,met"])
def test_a_torn_line_is_taken_away(tmp_path, torn):
    header = "" if torn.startswith("step") else "step,metric,value,time\n1,loss,0.5,1.000\n"
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/metrics.csv").write_text(header + torn)
    with opened(tmp_path, "csv") as tracker:
        tracker.metrics({"loss": 0.25}, 3)
    assert metrics_of(tmp_path) == ([(1, "loss", 0.5)] if header else []) + [(3, "loss", 0.25)]


def test_a_full_disk_costs_lines_and_is_reported_once(tmp_path, monkeypatch, capsys):
    with opened(tmp_path, "csv") as tracker:
        tracker.metrics({"loss": 0.5}, 1)
        with monkeypatch.context() as full:
            full.setattr(Path, "open", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            for step in range(2, 50):
                tracker.metrics({"loss": 0.5}, step)
        tracker.metrics({"loss": 0.25}, 50)  # there is room again
    assert tracker.problems == ["csv: metrics failed: OSError: [Errno 28] No space left on device"]
    assert capsys.readouterr().err.count("No space left") == 1
    assert [row[0] for row in metrics_of(tmp_path)] == [1, 50]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # its writer ends
def test_tensorboard_outlives_a_disk_without_room(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with opened(tmp_path, "tensorboard", "csv") as tracker:
        events = next((tmp_path / "tensorboard").glob("events*"))
        events.unlink()
        events.symlink_to("/dev/full")
        for step in range(100):
            tracker.metrics({"loss": 0.5}, step)
            tracker.text("a.txt", "x" * 10_000)
    assert any("tensorboard" in problem and "No space left" in problem for problem in tracker.problems)
    assert len(metrics_of(tmp_path)) == 100


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with opened(tmp_path / "file", "csv", "tensorboard") as tracker:
        tracker.metrics({"loss": 0.5}, 1)
        tracker.text("a", "b")
    assert len(tracker.problems) == 2 and all("could not start" in problem for problem in tracker.problems)


def test_what_is_no_number_or_no_file_is_reported_and_the_rest_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tracker_module, "LARGEST_FILE", 10)
    (tmp_path / "large").write_bytes(b"x" * 11)
    with opened(tmp_path, "csv") as tracker:
        tracker.metrics({"loss": 0.5, "note": "best so far"}, 1)  # type: ignore[dict-item]
        tracker.file(tmp_path / "absent.html")
        tracker.file(tmp_path / "large")
        tracker.settings({"good": [{("a", "b"): 1}]})
    assert [row[1] for row in metrics_of(tmp_path)] == ["loss"]
    problems = "\n".join(tracker.problems)
    assert (
        "note is not a number" in problems and "absent.html was not logged" in problems and "large was not" in problems
    )
    assert "settings: were left out" in problems


def test_names_cannot_leave_the_folder(tmp_path):
    with opened(tmp_path / "run", "csv") as tracker:
        tracker.text("../../escaped.txt", "x")
        tracker.text("/etc/escaped", "x")
    assert tracker.problems == []
    assert not list(tmp_path.glob("escaped*")) and len(list((tmp_path / "run/csv").glob("*escaped*"))) == 2


def test_without_trackers_and_after_closing_nothing_happens(tmp_path):
    with opened(tmp_path) as tracker:
        tracker.metrics({"loss": 0.5}, 1)
    with opened(tmp_path, "csv") as tracker:
        pass
    tracker.metrics({"loss": 0.5}, 1)
    tracker.close()
    assert tracker.problems == [] and not (tmp_path / "csv/metrics.csv").exists()
