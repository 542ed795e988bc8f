"""Settings of flags and of a TOML file."""

from pathlib import Path

import pytest

from cxrlines.core.errors import Error
from cxrlines.web.serve_settings import PATHS, ServeSettings, is_loopback, load_settings


def test_flags_go_over_the_file_and_the_file_over_the_defaults(tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text('port = 81\nqueue = 3\nhosts = ["reader.example"]\nproject = "p"\n')
    settings = load_settings(config, {"port": 82, "host": None, "project": None})
    assert settings == ServeSettings(port=82, queue=3, hosts=("reader.example",), project=tmp_path / "p")
    assert load_settings(None, {}) == ServeSettings()
    assert ServeSettings().host == "127.0.0.1"
    assert load_settings(config, {"project": Path("p")}).project == Path("p")


def test_every_path_of_the_file_is_relative_to_it(tmp_path):
    assert [name for name, field in ServeSettings.model_fields.items() if "Path" in str(field.annotation)] == list(
        PATHS
    )
    config = tmp_path / "serve.toml"
    config.write_text("".join(f'{name} = "x"\n' for name in PATHS))
    assert {getattr(load_settings(config, {}), name) for name in PATHS} == {tmp_path / "x"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("port = 70000", ["port", "70000"]),
        ("prot = 80", ["serve.toml: prot", "did you mean 'port'"]),
        ('hosts = "reader.example"', ["hosts", "a list in brackets"]),
        ("port = [", ["TOML"]),
        ('tls_key = "k.pem"', ["tls_certificate"]),
        ("queue = 0", ["queue", "0"]),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, text, names):
    config = tmp_path / "serve.toml"
    config.write_text(text)
    with pytest.raises(Error) as raised:
        load_settings(config, {})
    for name in names:
        assert name in str(raised.value)


def test_a_flag_is_called_by_its_name(tmp_path):
    with pytest.raises(Error, match=r"^--port is '99999'; must be less than or equal to 65535"):
        load_settings(None, {"port": 99999})
    (tmp_path / "serve.toml").write_text("queue = 3\n")
    with pytest.raises(Error, match=r"^--tls-key is"):
        load_settings(tmp_path / "serve.toml", {"tls_key": 3})


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Error, match=r"none\.toml"):
        load_settings(tmp_path / "none.toml", {})


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "reader.example", "")))
