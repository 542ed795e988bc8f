"""The connection to a cluster: addresses that do not answer, and folders that a machine does not see."""

import builtins
import socket

import pytest

from cxrlines.cluster import connection
from cxrlines.cluster.connection import ClusterError, check_shared, cluster, leave_marker

pytestmark = pytest.mark.doors


def test_without_ray_it_says_what_to_install(monkeypatch):
    usual = builtins.__import__

    def refuse(name, *rest, **options):
        if name == "ray":
            raise ImportError(name)
        return usual(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ClusterError, match=r'--on ray needs Ray.*pip install "cxrlines\[ray\]"'), cluster("ray"):
        pass


@pytest.mark.parametrize("on", ["slurm", "ray://host", "host:", "ray://:10001"])
def test_an_address_that_is_none(on):
    with (
        pytest.raises(ClusterError, match=rf"--on is '{on}'.*give ray \(this machine\), ray://HOST:PORT"),
        cluster(on),
    ):
        pass


@pytest.mark.parametrize("scheme", ["ray://", ""])
def test_an_address_that_does_not_answer_is_said_before_ray_is_asked(scheme, ray, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(ray, "init", lambda **options: asked.append("ray"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        on = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ClusterError, match=rf"--on {on}: no Ray cluster answers .*refused.*`ray start --head`"),
            cluster(on),
        ):
            pass
        assert not asked, "Ray itself would ask for a minute and more"


def test_what_listens_but_is_not_ray(ray, monkeypatch):
    monkeypatch.setattr(connection, "CONNECT_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        on = f"ray://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(ClusterError, match="what listens there is not Ray"), cluster(on):
            pass


def test_a_machine_that_does_not_see_the_folders_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "SEEN_S", 0.0)
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    marker = leave_marker(tmp_path / "run")
    check_shared(marker, tmp_path)
    assert list((tmp_path / "run").iterdir()) == [marker]
    with pytest.raises(
        ClusterError, match=r"the machine node7 does not see .*data; it must lie on a file system that all"
    ):
        check_shared(marker, tmp_path / "data")
    marker.unlink()
    with pytest.raises(ClusterError, match=r"the machine node7 does not see what this run wrote to .*/run;"):
        check_shared(marker)
