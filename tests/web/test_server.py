"""The end of the server: what is under way is waited for, but not for ever."""

import asyncio
import time
from types import SimpleNamespace

import pytest
import uvicorn

from cxrlines.web import server


@pytest.mark.parametrize(("answered", "left"), [(True, 60), (False, 1)])
def test_who_does_not_read_an_answer_holds_nothing_up(monkeypatch, answered, left):
    """Requests are waited for within one time for all; what is left of it is for connections."""
    monkeypatch.setattr(server, "DRAIN_S", 0.01)
    monkeypatch.setattr(server, "GRACE_S", 60 if answered else 0.2)
    guard = SimpleNamespace(draining=True, under_way=1)

    async def drained() -> uvicorn.Config:
        made = server._Server(uvicorn.Config(lambda: None), guard, lambda: None)
        if answered:
            asyncio.get_running_loop().call_later(0.1, setattr, guard, "under_way", 0)
        await asyncio.wait_for(made._drain(), 30)
        assert made.should_exit
        return made.config

    begun = time.monotonic()
    config = asyncio.run(drained())
    assert left - (time.monotonic() - begun) - 1 <= config.timeout_graceful_shutdown <= left
