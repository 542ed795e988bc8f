"""Settings of a node: from a file, from flags, and what is said of those that are wrong."""

import ssl
import subprocess
from pathlib import Path

import pytest

from cxrlines.core.errors import Error
from cxrlines.pacs.node_settings import PATHS, Certificates, NodeSettings, client_tls, load_settings, server_tls
from cxrlines.reading.results.dicom.objects import Kind

CONFIG = """
aet = "CXRLINES"
port = 11113
queue = "queue"
to = ["PACS@10.0.0.5:104", "ARCHIVE@[::1]:11112"]
stow = ["https://pacs/dicom-web/"]
calling = ["MODALITY"]
addresses = ["10.0.0.0/8", "::1"]

[tls_to]
ca = "ca.pem"
"""


def test_a_file(tmp_path):
    (tmp_path / "node.toml").write_text(CONFIG)
    settings = load_settings(tmp_path / "node.toml", {})
    assert [str(peer) for peer in settings.to] == ["PACS@10.0.0.5:104", "ARCHIVE@::1:11112"]
    assert settings.stow == ("https://pacs/dicom-web",)
    assert settings.queue == tmp_path / "queue" and settings.tls_to.ca == tmp_path / "ca.pem"
    assert settings.host == "127.0.0.1" and settings.keep is False


def test_every_path_of_the_file_is_relative_to_it(tmp_path):
    def paths(model):
        return [name for name, field in model.model_fields.items() if "Path" in str(field.annotation)]

    own, of_tls = paths(NodeSettings), paths(Certificates)
    assert {*own, *(f"{tls}.{name}" for tls in ("tls", "tls_to") for name in of_tls)} == set(PATHS)
    tables = "".join(f"[{tls}]\n" + "".join(f'{name} = "x"\n' for name in of_tls) for tls in ("tls", "tls_to"))
    rest = 'aet = "A"\nto = ["PACS@10.0.0.5:104"]\n' + "".join(f'{name} = "x"\n' for name in own)
    (tmp_path / "node.toml").write_text(rest + tables)
    made = load_settings(tmp_path / "node.toml", {})
    assert {getattr(made, name) for name in own} == {tmp_path / "x"}
    assert {getattr(tls, name) for tls in (made.tls, made.tls_to) for name in of_tls} == {tmp_path / "x"}


def test_flags_go_before_the_file(tmp_path):
    (tmp_path / "node.toml").write_text(CONFIG)
    flags = {"port": 4242, "to": ("NEW@pacs:104",), "aet": None, "stow": (), "queue": Path("here")}
    settings = load_settings(tmp_path / "node.toml", flags)
    assert (settings.port, str(settings.to[0]), settings.aet, settings.queue) == (
        4242,
        "NEW@pacs:104",
        "CXRLINES",
        Path("here"),
    )
    assert settings.stow


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("port = 11113", "port = 70000"), ["field port", "70000", "1 to 65535"]),
        (("port = 11113", 'port = "x"'), ["field port", "'x'"]),
        (("PACS@10.0.0.5:104", "CXRLINES@127.0.0.1:11113"), ["field to is 'CXRLINES@127.0.0.1:11113'", "itself"]),
        (("ARCHIVE@[::1]:11112", "CXRLINES@localhost:11113"), ["field to is 'CXRLINES@localhost:11113'", "itself"]),
        (("MODALITY", "A NAME THAT IS TOO LONG"), ["field calling.0", "1 to 16"]),
        (("PACS@10.0.0.5:104", "PACS:104"), ["field to.0", "AET@HOST:PORT"]),
        (("PACS@10.0.0.5:104", "PACS@10.0.0.5:0"), ["field to.0", "1 to 65535"]),
        (("https://pacs", "ftp://pacs"), ["field stow.0", "http"]),
        (("ARCHIVE@[::1]:11112", "PACS@10.0.0.5:0104"), ["field to is", "PACS@10.0.0.5:104 is there 2 times"]),
        (('/dicom-web/"]', '/dicom-web/", "https://pacs/dicom-web"]'), ["field stow is", "https://pacs/dicom-web is"]),
        (("10.0.0.0/8", "10.0.0.1/8"), ["field addresses.0"]),
        (("aet =", "ate ="), ["ate"]),
        (("ca =", "kay ="), ["field tls_to.kay", "not a setting", "there are: cert, key, ca"]),
        (('to = ["PACS@10.0.0.5:104", "ARCHIVE@[::1]:11112"]', 'to = "PACS@10.0.0.5:104"'), ["field to", "a list in"]),
        (
            ('queue = "queue"', 'queue = "queue"\nresults = ["sr", "pdf"]'),
            ["field results.1", "'pdf'", "'sr', 'pr' or 'sc'"],
        ),
        (('queue = "queue"', 'queue = "queue"\nresults = []'), ["field results is", "at least one of sr, pr, sc"]),
        (('queue = "queue"', ""), ["queue is missing"]),
        (
            ('to = ["PACS@10.0.0.5:104", "ARCHIVE@[::1]:11112"]\nstow = ["https://pacs/dicom-web/"]', ""),
            ["--to (or --stow) is missing"],
        ),
        (('"PACS@10.0.0.5:104", "ARCHIVE@[::1]:11112"', '{aet = "A", port = 1}'), ["field to.0.host is missing"]),
        (("port = 11113", "port = = 1"), ["is not valid TOML"]),
    ],
)
def test_what_is_wrong_is_said_with_its_field(tmp_path, change, words):
    assert change[0] in CONFIG
    (tmp_path / "node.toml").write_text(CONFIG.replace(*change))
    with pytest.raises(Error) as caught:
        load_settings(tmp_path / "node.toml", {})
    text = str(caught.value)
    assert all(word in text for word in (*words, "node.toml")), text


def test_another_node_may_have_the_same_name_or_port(tmp_path):
    for other in ("CXRLINES@127.0.0.1:11114", "OTHER@127.0.0.1:11113", "CXRLINES@192.0.2.7:11113"):
        (tmp_path / "node.toml").write_text(CONFIG.replace("PACS@10.0.0.5:104", other))
        assert str(load_settings(tmp_path / "node.toml", {}).to[0]) == other


def test_results_are_all_kinds_or_those_named(tmp_path):
    flags = {"aet": "A", "queue": tmp_path, "stow": ("http://pacs",)}
    assert load_settings(None, flags | {"results": ()}).results == tuple(Kind)
    assert load_settings(None, flags | {"results": ("sc", "pr")}).results == (Kind.CAPTURE, Kind.PRESENTATION)


def test_a_flag_is_called_by_its_name(tmp_path):
    flags = {"aet": "A", "queue": tmp_path, "to": ("PACS",)}
    with pytest.raises(Error, match=r"--to is 'PACS'"):
        load_settings(None, flags)
    twice = r"--stow is .*each destination is named once, and http://x is there 3 times; correct it"
    with pytest.raises(Error, match=twice):
        load_settings(
            None, {"aet": "A", "queue": tmp_path, "stow": ("http://x/", "http://y", "http://x", "http://x//")}
        )
    with pytest.raises(Error, match=r"--config .*none\.toml: cannot be read"):
        load_settings(tmp_path / "none.toml", flags)
    with pytest.raises(Error, match=r"^--aet is missing; .* --aet CXRLINES"):
        load_settings(None, {"queue": tmp_path, "to": ("PACS@pacs:104",)})
    with pytest.raises(Error, match="--status-port is '0'"):
        load_settings(None, {"aet": "A", "queue": tmp_path, "status_port": 0})


def test_all_that_is_missing_is_named_at_once_with_an_example(tmp_path):
    with pytest.raises(Error) as caught:
        load_settings(None, {"aet": None, "to": ()})
    what, way_out = str(caught.value).split("; ", 1)
    assert what == "--aet and --queue and --to (or --stow) are missing"
    flags = way_out.split("`")[1].split()[2:]
    example = {flag.removeprefix("--"): value for flag, value in zip(flags[::2], flags[1::2], strict=True)}
    assert load_settings(None, example | {"to": (example["to"],)}).aet == "CXRLINES"
    (tmp_path / "node.toml").write_text('aet = "A"\nstow = ["http://pacs"]\n')
    with pytest.raises(Error, match=r"node\.toml: --queue is missing"):
        load_settings(tmp_path / "node.toml", {})


def test_certificates(tmp_path):
    assert server_tls(None) is None and client_tls(None) is None
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(Error, match="tls: a node needs cert and key"):
        server_tls(Certificates(cert=tmp_path / "cert.pem"))
    with pytest.raises(Error, match=r"tls: .*cert\.pem"):
        server_tls(Certificates(cert=tmp_path / "cert.pem", key=tmp_path / "cert.pem"))
    with pytest.raises(Error, match=r"tls_to: .*none\.pem"):
        client_tls(Certificates(ca=tmp_path / "none.pem"))
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    own = Certificates(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    assert server_tls(own).verify_mode is ssl.CERT_NONE
    assert server_tls(own.model_copy(update={"ca": own.cert})).verify_mode is ssl.CERT_REQUIRED
    assert client_tls(own).verify_mode is ssl.CERT_REQUIRED and client_tls(own).check_hostname
