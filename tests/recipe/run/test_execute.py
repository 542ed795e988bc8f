"""Workers of this machine: what is stopped, and what is not."""

import multiprocessing
import os
import time
from concurrent.futures import BrokenExecutor

import pytest

from cxrlines.recipe.run.execute import LocalWorkers


def test_stopping_ends_its_own_processes_and_no_other_child_of_the_host(tmp_path):
    context = multiprocessing.get_context("spawn")
    foreign = context.Process(target=time.sleep, args=(3600,), daemon=True)
    foreign.start()
    workers = LocalWorkers(tmp_path, tmp_path, 2)
    try:
        pid = workers._pool.submit(os.getpid).result(300)
        under_way = workers._pool.submit(time.sleep, 3600)
        ours = [child for child in multiprocessing.active_children() if child.pid != foreign.pid]
        assert pid in [child.pid for child in ours]
        workers.stop()
        with pytest.raises(BrokenExecutor):
            under_way.result(300)
        for child in ours:
            child.join(300)
            assert child.exitcode is not None
        assert foreign.is_alive()
    finally:
        workers.close()
        foreign.kill()
        foreign.join()
