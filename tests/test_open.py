"""`cxrlines open`: the report in a browser where there is one, its place in any case."""

import webbrowser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cxrlines import cli


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a browser is asked to show, on a machine with a screen."""
    shown: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", lambda address: shown.append(address) or True)
    return shown


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run/report.html").write_text("<p>figures")
    return tmp_path / "a run"


def test_the_report_is_opened_and_named(run, opened):
    done = CliRunner().invoke(cli.app, ["open", str(run)])
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{run / 'report.html'}\n", "")
    assert opened == [(run / "report.html").as_uri()] and "a%20run" in opened[0]


def test_without_a_screen_its_address_is_printed_and_nothing_run(run, opened, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    done = CliRunner().invoke(cli.app, ["open", str(run)])
    assert (done.exit_code, done.stdout) == (0, f"{run / 'report.html'}\n")
    assert (run / "report.html").as_uri() in done.stderr and not opened


def test_a_browser_that_does_not_start_costs_nothing(run, opened, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    done = CliRunner().invoke(cli.app, ["open", str(run)])
    assert done.exit_code == 0 and (run / "report.html").as_uri() in done.stderr


@pytest.mark.parametrize(
    ("files", "said"),
    [(None, "is no folder"), ([], "it is no run"), (["recipe.json"], "give its command again")],
    ids=["nowhere", "no-run", "unfinished"],
)
def test_a_run_without_a_report_says_what_to_do(files, said, tmp_path, opened):
    place = tmp_path / "r"
    if files is not None:
        place.mkdir()
    for name in files or []:
        (place / name).write_text("{}")
    done = CliRunner().invoke(cli.app, ["open", str(place)])
    assert done.exit_code == 2 and done.stdout == "" and said in done.stderr and str(place) in done.stderr
    assert not opened
