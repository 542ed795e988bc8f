"""Settings of services: read as TOML, or said what is wrong with the file."""

import pytest

from cxrlines.core.errors import Error
from cxrlines.core.toml_file import read_config


def test_what_it_says(tmp_path):
    (tmp_path / "a.toml").write_text('port = 1\nto = ["A"]\n[tls]\nca = "x"\n')
    assert read_config(tmp_path / "a.toml") == {"port": 1, "to": ["A"], "tls": {"ca": "x"}}
    assert read_config(None) == {}


@pytest.mark.parametrize("content", [b"port 8080", b"port = \xff", None])
def test_a_file_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "settings.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Error, match=r"--config .*settings.toml: (is no TOML|cannot be read)"):
        read_config(path)
