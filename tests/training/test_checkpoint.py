"""A stage's state survives the disk bit for bit, and nothing else is taken for it."""

import pytest
import torch

from cxrlines.core.files import OutputError
from cxrlines.training.checkpoint import Progress, State, cpu_copy, load_state, save_state


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Conv2d(1, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.rand(2, 1, 8, 8)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def test_what_is_loaded_equals_what_was_saved(tmp_path):
    model, optimizer = trained()
    progress = Progress(epoch=2, batch=7, seconds=1.5, best=0.8, history=[{"epoch": 1, "auc": None}])
    save_state(
        tmp_path / "s", "id", State(progress, {"model": cpu_copy(model.state_dict())}, optimizer.state_dict(), {})
    )
    loaded = load_state(tmp_path / "s", "id")
    assert loaded is not None
    assert loaded.progress == progress
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.tensors["model"][name], tensor)
    fresh = torch.optim.Adam(model.parameters(), lr=0.5)
    fresh.load_state_dict(loaded.optimizer)
    assert fresh.param_groups[0]["lr"] == 0.1
    for parameter in model.parameters():
        for slot, value in optimizer.state[parameter].items():
            assert torch.equal(fresh.state[parameter][slot], value)


def test_the_state_of_another_specification_is_not_resumed(tmp_path):
    save_state(tmp_path / "s", "one", State(Progress(), {}, {}, {}))
    assert load_state(tmp_path / "s", "other") is None
    assert load_state(tmp_path / "absent", "one") is None


def test_a_failed_save_leaves_the_last_state(tmp_path, monkeypatch):
    save_state(tmp_path / "s", "id", State(Progress(batch=1), {}, {}, {}))
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left on device"):
        save_state(tmp_path / "s", "id", State(Progress(batch=2), {}, {}, {}))
    loaded = load_state(tmp_path / "s", "id")
    assert loaded is not None and loaded.progress.batch == 1
