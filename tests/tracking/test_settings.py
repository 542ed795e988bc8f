"""What cannot work is refused before anything starts, with the way out."""

import base64
import importlib.util
import json
import pickle
from dataclasses import asdict

import pytest

from cxrlines.tracking.settings import TRACKERS, TrackingError, TrackingSettings, check_trackers

OWN = "https://neptune.hospital.example"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NEPTUNE_API_TOKEN", "NEPTUNE_PROJECT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def installed(monkeypatch):
    """Every client counts as installed, whatever is on this machine."""
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None, origin=name)
    )


def token(address: str) -> str:
    return base64.b64encode(json.dumps({"api_address": address, "api_url": address}).encode()).decode()


def refused(**fields) -> str:
    with pytest.raises(TrackingError) as caught:
        check_trackers(TrackingSettings(**fields))
    return str(caught.value)


def test_settings_survive_json_and_pickle():
    settings = TrackingSettings(use=TRACKERS, root="/runs/demo", mlflow="http://localhost:5000")
    fields = json.loads(json.dumps(asdict(settings)))
    assert TrackingSettings(**fields | {"use": tuple(fields["use"])}) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301 - our own bytes


def test_every_tracker_is_allowed_where_its_package_is_installed(installed):
    check_trackers(TrackingSettings(use=TRACKERS))


def test_an_unknown_tracker_names_the_nearest():
    message = refused(use=("csv", "tensorbord"))
    assert "'tensorbord'" in message and "did you mean 'tensorboard'?" in message and ", ".join(TRACKERS) in message


@pytest.mark.parametrize("name", ["mlflow", "neptune", "wandb"])
def test_a_missing_package_names_its_extra(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None)
    message = refused(use=("csv", name))
    assert f'pip install "cxrlines[{name}]"' in message and f"take {name} out of tracking.use" in message
    check_trackers(TrackingSettings(use=("csv",)))  # needs no package


def test_a_mere_folder_of_the_name_is_no_package(monkeypatch, tmp_path):
    (tmp_path / "neptune_of_nobody").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    found = importlib.util.find_spec("neptune_of_nobody")
    assert found is not None  # Python takes it for a namespace
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: found)
    assert "cxrlines[neptune]" in refused(use=("neptune",))


@pytest.mark.parametrize("address", ["localhost:5000", "file:///runs", "http://", "http://host:port", "sqlite:///a.db"])
def test_an_address_that_is_none_is_refused(installed, address):
    message = refused(use=("mlflow",), mlflow=address)
    assert "tracking.mlflow" in message and repr(address) in message and "http(s)://HOST:PORT" in message


def test_a_password_in_an_address_is_refused_and_not_repeated(installed):
    message = refused(use=("mlflow",), mlflow="https://me:hunter2@mlflow.example")
    assert "MLFLOW_TRACKING_PASSWORD" in message and "hunter2" not in message


def test_an_address_is_looked_at_only_where_its_tracker_is_used():
    check_trackers(
        TrackingSettings(use=("csv",), mlflow="nonsense", neptune="https://app.neptune.ai", wandb="nonsense")
    )


def test_hosted_neptune_has_ended(installed, monkeypatch):
    for address in ("https://app.neptune.ai", "https://APP.neptune.ai/team"):
        message = refused(use=("neptune",), neptune=address)
        assert "ended in March 2026" in message and "offline runs" in message
    monkeypatch.setenv("NEPTUNE_API_TOKEN", token("https://app.neptune.ai"))
    message = refused(use=("neptune",), neptune=OWN, project="team/lines")
    assert "NEPTUNE_API_TOKEN" in message and "ended in March 2026" in message
    check_trackers(TrackingSettings(use=("neptune",)))  # offline: an old token is in nobody's way


def test_a_neptune_server_needs_its_own_token_and_a_workspace(installed, monkeypatch):
    assert "NEPTUNE_API_TOKEN is not set" in refused(use=("neptune",), neptune=OWN)
    monkeypatch.setenv("NEPTUNE_API_TOKEN", "no token at all")
    message = refused(use=("neptune",), neptune=OWN)
    assert "is not a Neptune token" in message and "no token at all" not in message
    monkeypatch.setenv("NEPTUNE_API_TOKEN", token("https://other.example"))
    assert "other.example" in refused(use=("neptune",), neptune=OWN)
    monkeypatch.setenv("NEPTUNE_API_TOKEN", token(OWN))
    assert "WORKSPACE/PROJECT" in refused(use=("neptune",), neptune=OWN)
    check_trackers(TrackingSettings(use=("neptune",), neptune=OWN, project="team/lines"))


def test_wandb_is_offline_unless_there_is_a_key(installed, monkeypatch, tmp_path):
    check_trackers(TrackingSettings(use=("wandb",)))
    assert "WANDB_API_KEY" in refused(use=("wandb",), wandb="online")
    assert "'onlin'" in refused(use=("wandb",), wandb="onlin")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    check_trackers(TrackingSettings(use=("wandb",), wandb="online"))
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    check_trackers(TrackingSettings(use=("wandb",), wandb="https://wandb.hospital.example"))


def test_patience_is_positive():
    assert "tracking.patience_s is 0" in refused(use=("csv",), patience_s=0)
