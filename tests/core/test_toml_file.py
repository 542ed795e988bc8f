"""Settings of services: read as TOML, or said what is wrong with the file."""

from pathlib import Path

import pytest

from cxrlines.core.errors import Error
from cxrlines.core.toml_file import read_config


def test_what_it_says(tmp_path):
    (tmp_path / "a.toml").write_text('port = 1\nto = ["A"]\n[tls]\nca = "x"\n')
    assert read_config(tmp_path / "a.toml") == {"port": 1, "to": ["A"], "tls": {"ca": "x"}}
    assert read_config(None) == {}
    (tmp_path / "b.toml").write_bytes(b"\xef\xbb\xbfport = 1\n")  # as some editors save it
    assert read_config(tmp_path / "b.toml") == {"port": 1}


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "a.toml").write_text('queue = "q"\nkey = "/k"\nport = 1\nto = "t"\n[tls]\nca = "../x"\nkey = "y"\n')
    found = read_config(tmp_path / "a.toml", ("queue", "key", "port", "none", "tls.ca", "to.ca", "other.ca"))
    tls = {"ca": tmp_path / "../x", "key": "y"}
    assert found == {"queue": tmp_path / "q", "key": Path("/k"), "port": 1, "to": "t", "tls": tls}


@pytest.mark.parametrize("content", [b"port 8080", b"port = \xff", None])
def test_a_file_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "settings.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Error, match=r"--config .*settings.toml: (is not valid TOML|cannot be read)"):
        read_config(path)
