"""Keys: made once, kept by their user; tokens that reveal no patient without the key."""

import errno
import hashlib
import hmac
import os
import stat
import subprocess
import sys

import pytest

from cxrlines.io.patients import KeyFileError, as_known, cut, foreign, key_name, names_in, site_name, tokens


@pytest.fixture
def key_file(tmp_path, monkeypatch):
    path = tmp_path / "config/site.key"
    monkeypatch.setenv("CXRLINES_SITE_KEY", str(path))
    return path


def test_the_site_key_is_made_once_for_its_user_alone(key_file):
    assert site_name() is None and not key_file.exists()
    name = key_name()
    assert name == site_name() == key_name() and name.startswith("site-")
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert key_file.read_text().strip() not in name and not list(key_file.parent.glob(".*"))


def test_it_lies_in_the_users_configuration(monkeypatch, tmp_path):
    monkeypatch.delenv("CXRLINES_SITE_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key_name()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.key")] == ["cxrlines/site.key"]


def test_processes_that_make_it_at_the_same_time_agree(key_file):
    code = "from cxrlines.io.patients import key_name; print(key_name())"
    made = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate(timeout=120)[0].strip() for process in made} == {key_name()}


WITHOUT_LINKS = """
import errno, os
def no_links(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")
os.link = no_links
from cxrlines.io.patients import key_name
print(key_name())
"""


def test_it_is_made_where_there_are_no_hard_links(key_file):
    made = [subprocess.Popen([sys.executable, "-c", WITHOUT_LINKS], stdout=subprocess.PIPE, text=True) for _ in "abc"]
    assert {process.communicate(timeout=120)[0].strip() for process in made} == {site_name()}
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600 and [*key_file.parent.iterdir()] == [key_file]


@pytest.mark.parametrize("links", [True, False])
def test_a_full_disk_leaves_no_secret_behind(key_file, monkeypatch, links):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cxrlines.io.patients.os.link" if not links else "cxrlines.io.patients.os.fsync", full)
    if not links:
        monkeypatch.setattr("cxrlines.io.patients._make_without_links", full)
    with pytest.raises(KeyFileError, match="No space left"):
        key_name()
    assert not [*key_file.parent.iterdir()]


def test_a_token_is_a_keyed_hash(key_file):
    (token,) = tokens(["MRN-7"], key_name())
    secret = bytes.fromhex(key_file.read_text().strip())
    assert token == f"{key_name()}:{hmac.new(secret, b'MRN-7', hashlib.sha256).hexdigest()[:16]}"
    assert cut(token) == token[: len(key_name()) + 6]


def test_a_published_key_is_the_same_everywhere_and_for_each_set_another(key_file):
    mine = tokens(["7"], "ranzcr")
    key_file.parent.mkdir()
    key_file.write_text("0" * 64)
    assert tokens(["7"], "ranzcr") == mine == ["ranzcr:3f0342f7b6b3815a"]
    assert tokens(["7"], "nih")[0].partition(":")[2] != mine[0].partition(":")[2]


def test_another_key_makes_others_and_those_of_the_first_are_of_another_site(key_file):
    first, mine = key_name(), tokens(["7"], key_name())
    key_file.unlink()
    assert foreign(names_in(mine)) == {first}
    for state in ("missing", "another"):
        with pytest.raises(KeyFileError, match=rf"{first}.*{state}") as error:
            tokens(["7"], first)
        assert "7" not in error.value.way_out
        key_name()
    assert as_known(["7"], [first, "ranzcr"]) == [set(tokens(["7"], "ranzcr"))]


def test_whom_no_key_knows_is_known_by_nothing(key_file):
    assert as_known(["7", "8"], []) == [set(), set()] and as_known([], ["ranzcr"]) == []


def test_a_spoilt_key_and_a_folder_that_cannot_be_written_are_named(key_file):
    key_file.parent.mkdir()
    key_file.write_text("no key")
    with pytest.raises(KeyFileError, match="site key") as error:
        key_name()
    assert "no key" not in str(error.value).removeprefix(str(key_file)).replace("holds no site key", "")
    key_file.unlink()
    key_file.mkdir()
    with pytest.raises(KeyFileError, match="site key"):
        key_name()


def test_public_and_phantom_patients_need_no_site_key(key_file):
    assert (key_name("ranzcr"), key_name(phantom=True), key_name("nih", phantom=True)) == ("ranzcr", "phantom", "nih")
    assert not key_file.exists() and os.environ["CXRLINES_SITE_KEY"]


def test_a_patient_who_is_named_by_a_file_whose_name_is_not_utf_8(key_file):
    odd = os.fsdecode(b"film-\xff.png")
    for name in (key_name(), "phantom", "sha256"):
        assert len({*tokens([odd, "film-.png"], name)}) == 2
