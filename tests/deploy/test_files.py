"""Files of deploy/: each command of cxrlines in them has options and values that the command takes."""

import configparser
import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from cxrlines import cli
from cxrlines.pacs.node_settings import load_settings as node_settings
from cxrlines.web.serve_settings import load_settings as serve_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def unit(path: Path) -> dict[str, str]:
    found = configparser.ConfigParser(interpolation=None, strict=True)
    found.optionxform = str
    found.read_string(path.read_text("utf-8"))
    assert set(found) - {"DEFAULT"} == {"Unit", "Service", "Install"}
    return dict(found["Service"])


def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))


def dockerfile(instruction: str) -> list[list[str]]:
    lines = re.findall(rf"^{instruction} (\[.*\])$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.M)
    return [json.loads(line) for line in lines]


def commands() -> dict[str, list[str]]:
    """Where it stands -> the words after `cxrlines`."""
    assert dockerfile("ENTRYPOINT") == [["cxrlines"]]
    found = {"Dockerfile": dockerfile("CMD")[-1]}
    found |= {name: each["command"] for name, each in compose()["services"].items() if "command" in each}
    for path in UNITS:
        program, *words = shlex.split(unit(path)["ExecStart"])
        assert program == "/opt/cxrlines/bin/cxrlines"
        found[path.name] = words
    page = (ROOT / "docs/deploy.md").read_text("utf-8")
    for number, line in enumerate(re.findall(r"^cxrlines (.*)$", page, re.M)):
        found[f"docs/deploy.md {number}"] = shlex.split(line)
    return found


def parsed(words: list[str]) -> dict:
    """The parameters of a command line; what a command refuses raises."""
    command = typer.main.get_command(cli.app)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    return command.make_context(command.name, list(words)).params


@pytest.mark.parametrize("place", commands())
def test_the_commands_take_what_they_are_given(place, tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path)
    words = commands()[place]
    found = parsed(words)
    if words[0] == "serve":
        names = ("host", "port", "project")
        assert serve_settings(None, {name: found[name] for name in names}).port == found["port"] == 8080
        assert found["host"] in (None, "127.0.0.1") or found["token_file"]
    if words[0] == "listen" and not found["status"]:
        names = ("aet", "port", "host", "queue", "status_port", "status_host")
        settings = node_settings(None, {name: found[name] for name in names} | {"to": tuple(found["to"])})
        assert (settings.aet, settings.port, len(settings.to)) == ("CXRLINES", 11112, 1)
        assert settings.status_port == 8081


def test_the_queue_is_shown_to_the_computer_itself():
    """By the unit on loopback; out of the container by a port that is passed on from loopback alone."""
    by_unit = parsed(commands()["cxrlines-listen.service"])
    assert by_unit["status_port"] and by_unit["status_host"] is None
    in_container, port = parsed(commands()["listen"]), by_unit["status_port"]
    assert (in_container["status_host"], in_container["status_port"]) == ("0.0.0.0", port)
    assert f"127.0.0.1:{port}:{port}" in compose()["services"]["listen"]["ports"]
    (exposed,) = re.findall(r"^EXPOSE (.*)$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.M)
    published = [each.get("ports", ()) for name, each in compose()["services"].items() if name != "orthanc"]
    assert {port.split(":")[-1] for ports in published for port in ports} < set(exposed.split())
    assert f"http://127.0.0.1:{port}/" in (ROOT / "docs/deploy.md").read_text("utf-8")


def test_every_service_is_shown():
    shown = {words[0] for words in commands().values()}
    assert shown >= {"serve", "listen", "module", "corrections", "train"}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_write_in_their_own_folder_alone(path):
    service = unit(path)
    assert service["DynamicUser"] == "yes" and service["ProtectSystem"] == "strict"
    assert service["ProtectHome"] == service["NoNewPrivileges"] == "yes" and service["CapabilityBoundingSet"] == ""
    places = re.findall(r"/var/lib/\S+", service["ExecStart"] + " " + service.get("Environment", ""))
    assert places and all(place.startswith(f"/var/lib/{service['StateDirectory']}/") for place in places)


def test_onnx_runtime_reports_nothing_to_its_maker():
    (image,) = re.findall(r"^ENV (.*)$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.M)
    for place in (image, *(unit(path)["Environment"] for path in UNITS)):
        assert "ORT_DISABLE_TELEMETRY=1" in place.split()


def test_the_image_is_light_and_runs_as_nobody_special():
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    installs = [words for words in dockerfile("RUN") if "install" in words]
    assert [words[-1] for words in installs] == [".[serve,pacs]"]
    users = re.findall(r"^USER (\S+)$", text, re.M)
    assert users == ["cxrlines"] and text.index("USER cxrlines") < text.index("ENTRYPOINT")
    assert all(line.startswith("[") for line in re.findall(r"^(?:RUN|CMD|ENTRYPOINT) (.*)$", text, re.M))  # no shell
    assert "HEALTHCHECK" in text and "/healthz" in text
    for name in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M):
        assert all((ROOT / each).exists() for each in name.split())


def test_compose_is_whole():
    found = compose()
    assert set(found["services"]) == {"orthanc", "listen", "serve"}
    for name, service in found["services"].items():
        assert ("image" in service) != ("build" in service), name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in found["volumes"] or (DEPLOY / source).is_file(), volume
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
            assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert set(service.get("secrets", ())) <= set(found["secrets"])
    orthanc = json.loads(found["services"]["orthanc"]["environment"]["ORTHANC_JSON"])
    listen = commands()["listen"]
    aet, host, port = orthanc["DicomModalities"]["cxrlines"]
    assert (aet, host, str(port)) == (listen[listen.index("--aet") + 1], "listen", listen[listen.index("--port") + 1])
    # Failed jobs are what deploy/route.lua sends again: of the default, 10, all others would be forgotten.
    assert orthanc["JobsHistorySize"] >= 1000 and orthanc["LuaHeartBeatPeriod"]
    assert listen[listen.index("--to") + 1] == f"{orthanc['DicomAet']}@orthanc:{orthanc['DicomPort']}"
