"""Steps on a Ray cluster: a local run's weights, and a machine that dies in the middle."""

import json
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cxrlines.cluster import connection
from cxrlines.cluster.connection import ClusterError
from cxrlines.cluster.step_workers import RayWorkers, ray_workers, shares
from cxrlines.models.weights import WeightsError, load_weights
from cxrlines.recipe.run.execute import RunError, do_plan
from cxrlines.recipe.run.folder import HELD_OUT, WEIGHTS, Run, Step, StepId
from cxrlines.recipe.run.pipeline import plan_of, prepare
from cxrlines.recipe.run.step import do_step
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.stage import FileStart, StageSpec

pytestmark = pytest.mark.doors

STORE = 80 * 2**20


@pytest.fixture
def one_core(monkeypatch):
    """This machine's own cluster with one core, so that a step has one thread as here."""
    monkeypatch.setattr(connection, "cores", lambda: 1)
    monkeypatch.setattr(connection, "STORE_BYTES", STORE)


def same_step(one: Run, other: Run, step: Step) -> None:
    here, there = one.folder(step.key), other.folder(step.key)
    mine, theirs = load_weights(here / WEIGHTS)[0], load_weights(there / WEIGHTS)[0]
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []
    for name in ("history.csv", HELD_OUT):
        assert (here / name).is_file() == (there / name).is_file()
        if (here / name).is_file():
            assert (here / name).read_text() == (there / name).read_text()


def test_on_a_cluster_of_this_machine_a_plan_ends_as_it_does_here(ray, one_core, phantom, tiny_recipe, tmp_path):
    recipe = load_recipe(str(tiny_recipe), ["tracking.use=[]", "members.plain.stages.only.schedule.epochs=1"])
    here, there = (prepare(recipe, phantom, tmp_path / name, 1) for name in ("here", "there"))
    steps = [step for step in plan_of(here, [0]) if step.name != "staged/fold0/finetune"]
    for step in steps:
        do_step(here, step, lambda status: None)
    (there.root / "plain").write_text("a file where a folder must go")
    with pytest.raises(RunError, match=r"(?s)1 of 3 steps .*plain/fold0/only: (FileExistsError|NotADirectoryError)"):
        do_plan(there, steps, start=ray_workers("ray"))
    for step in steps:
        if step.key.member == "staged":
            same_step(here, there, step)
    assert not (there.root / ".status").exists()
    assert not ray.is_initialized()


def epochs_kept(work: Path) -> int | None:
    """Epochs done as the state kept in a step's folder says; None where there is none."""
    try:
        return json.loads(load_weights(work / "state.safetensors")[1]["state"])["progress"]["epoch"]
    except (OSError, WeightsError):
        return None


@pytest.mark.long
def test_a_machine_killed_in_the_middle_costs_time_only(ray, phantom, tiny_recipe, tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    recipe = load_recipe(
        str(tiny_recipe),
        [
            "tracking.use=[]",
            "members.staged.stages.teacher.schedule.epochs=24",
            "members.plain.stages.only.schedule.epochs=24",
        ],
    )
    here, there = (prepare(recipe, phantom, tmp_path / name, 1) for name in ("here", "there"))
    steps = plan_of(here, [0])
    for step in steps:
        do_step(here, step, lambda status: None)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = free.getsockname()[1]
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "ray_client_server_port": client}
    machines = Cluster(initialize_head=True, head_node_args=head)
    kept: dict[str, list[int]] = {"staged.fold0.teacher": [], "plain.fold0.only": []}
    killed_at: dict[str, int] = {}
    over = threading.Event()
    try:
        machines.add_node(num_cpus=1, object_store_memory=STORE)
        second = machines.add_node(num_cpus=1, object_store_memory=STORE)

        def kill_one_in_the_middle() -> None:
            """Watch the states kept; once both steps have some epochs behind them, kill one machine."""
            while not over.is_set():
                for name, seen in kept.items():
                    epoch = epochs_kept(there.root / ".work" / name)
                    if epoch is not None and (not seen or seen[-1] != epoch):
                        seen.append(epoch)
                if not killed_at and all(seen and seen[-1] >= 3 for seen in kept.values()):
                    killed_at.update({name: seen[-1] for name, seen in kept.items()})
                    machines.remove_node(second, allow_graceful=False)
                time.sleep(0.02)

        watch = threading.Thread(target=kill_one_in_the_middle)
        watch.start()
        do_plan(there, steps, start=ray_workers(f"ray://127.0.0.1:{client}"))
        over.set()
        watch.join()
        assert killed_at and all(3 <= epoch < 24 for epoch in killed_at.values())
        for name, seen in kept.items():
            assert seen == sorted(seen), f"{name} began anew instead of going on"
            assert seen[-1] > killed_at[name]
        for step in steps:
            same_step(here, there, step)

        again = prepare(recipe, phantom, tmp_path / "again", 1)
        teachers = [step for step in plan_of(again, [0]) if step.key.stage == "teacher"]
        do_plan(again, teachers, start=ray_workers(machines.address))  # the cluster's own address
        same_step(here, again, teachers[0])
    finally:
        over.set()
        ray.shutdown()
        machines.shutdown()


@pytest.mark.parametrize(
    ("machines", "asked", "side_by_side", "wanted"),
    [
        ([{"CPU": 2}], None, 4, (1, 0)),  # as on one machine: a process of one thread a core
        ([{"CPU": 8}], 2, 4, (4, 0)),
        ([{"CPU": 8}], None, 1, (8, 0)),
        ([{"CPU": 4}, {"CPU": 2}], 2, 4, (2, 0)),  # 3 would not fit on the smaller one
        ([{"CPU": 0}, {"CPU": 1}, {"CPU": 1}], None, 4, (1, 0)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 6, "GPU": 2}, {"CPU": 64}], None, 10, (3, 1)),
    ],
)
def test_what_a_step_asks_for(machines, asked, side_by_side, wanted):
    assert shares(machines, asked, side_by_side) == wanted


def test_a_file_that_a_recipe_names_by_a_relative_path_is_refused(tmp_path, monkeypatch):
    step = Step(StepId("one", (0,), "only"), "x", (), 1, True)
    spec = StageSpec(start=FileStart(file="weights.safetensors"))
    run = SimpleNamespace(root=tmp_path, data=tmp_path, recipe=SimpleNamespace(spec={step.key.source: spec}.get))
    with pytest.raises(
        ClusterError, match=r"names weights.safetensors, which is another file on each machine; give its"
    ):
        RayWorkers("ray", run, [step], None)


def test_a_step_whose_record_does_not_show_here_is_an_error_of_the_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "SEEN_S", 0.0)
    task = SimpleNamespace(options=lambda name: SimpleNamespace(remote=lambda *given: None))
    workers = SimpleNamespace(
        root=tmp_path, data=tmp_path, threads=1, marker=None, running=[], task=task, ray=SimpleNamespace(get=id)
    )
    with pytest.raises(ClusterError, match=r"only/step.json is not seen here, though the step is done; it must"):
        RayWorkers.do(workers, Step(StepId("one", (0,), "only"), "x", (), 1, True))


def test_a_cluster_without_anything_to_compute_on():
    with pytest.raises(ClusterError, match="neither a GPU nor a core"):
        shares([{"memory": 1e9}], None, 3)
