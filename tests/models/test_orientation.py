"""The network that tells poses: kept in 16 bits, blind to brightness and contrast, its early layers left alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cxrlines.core.quality import OTHER
from cxrlines.models.orientation import SIZE, OrientationNet, read_orientation_net, write_orientation_net
from cxrlines.models.weights import WeightsError, load_weights, save_weights


def _net(seed: int = 0) -> OrientationNet:
    torch.manual_seed(seed)
    return OrientationNet().eval()


def _films(count: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(60, 120, (count, SIZE, SIZE), dtype=np.uint8))


def test_a_network_read_back_says_the_same_and_takes_less_than_a_megabyte(tmp_path: Path) -> None:
    net = _net()
    path = write_orientation_net(net, tmp_path / "quality.safetensors", {"seed": "0"})
    assert path.stat().st_size < 10**6 and load_weights(path)[1] == {"seed": "0"}
    again = read_orientation_net(path)
    with torch.inference_mode():
        wanted, found = net(_films()), again(_films())
    assert found.shape == (3, OTHER + 2)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-2)
    rewritten = write_orientation_net(again, tmp_path / "again.safetensors", {"seed": "0"})
    assert rewritten.read_bytes() == path.read_bytes()


def test_brightness_and_contrast_do_not_matter() -> None:
    net = _net()
    with torch.inference_mode():
        plain, changed = net(_films()), net(2 * _films() + 10)
    assert (plain - changed).abs().max() < 0.1 * (plain - net(255 - _films())).abs().max() + 0.02


def test_training_moves_all_but_the_early_layers_and_the_means_of_batches() -> None:
    net = _net().train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(_films()).square().sum().backward()
    optimizer.step()
    moved = {name for name, t in net.state_dict().items() if not torch.equal(t, before[name])}
    assert moved >= {"out.weight", "hidden.weight", "mix.weight"} and any(name.startswith("late") for name in moved)
    assert not any(name.startswith("early") or "running" in name for name in moved)


def test_a_file_of_other_weights_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    tensors = load_weights(write_orientation_net(_net(), tmp_path / "whole.safetensors", {}))[0]
    save_weights(tmp_path / "cut.safetensors", {name: t for name, t in tensors.items() if name != "out.bias"}, {})
    with pytest.raises(WeightsError, match=r"cut\.safetensors.*out\.bias"):
        read_orientation_net(tmp_path / "cut.safetensors")
