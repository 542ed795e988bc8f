import pytest
import torch
from torch import nn

from cxrlines.core.errors import Error
from cxrlines.models import HEADS
from cxrlines.models.classifier import AverageMaxPool, DeviceHeads, GeneralisedMeanPool, make_head
from cxrlines.task import DEVICE_OF, LABELS, LABELS_OF, Device


@pytest.fixture
def features() -> torch.Tensor:
    return torch.rand(2, 24, 5, 7, generator=torch.Generator().manual_seed(0)) + 0.1


@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_a_logit_a_label_and_a_gradient_to_every_weight(name: str, features: torch.Tensor) -> None:
    head = make_head(name, 24)
    logits = head(features)
    assert logits.shape == (2, len(LABELS))
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_generalised_mean_lies_between_average_and_maximum_and_meets_both(features: torch.Tensor) -> None:
    average, maximum = features.mean(dim=(2, 3)), features.amax(dim=(2, 3))
    torch.testing.assert_close(GeneralisedMeanPool(p=1.0)(features), average)
    torch.testing.assert_close(GeneralisedMeanPool(p=400.0)(features.double()).float(), maximum, rtol=0.02, atol=0)
    pooled = GeneralisedMeanPool()(features)
    assert (pooled > average).all() and (pooled < maximum).all()


def test_generalised_mean_stays_finite_in_half_precision() -> None:
    large = torch.full((1, 1, 2, 2), 300.0, dtype=torch.bfloat16)  # 300 cubed is beyond float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert GeneralisedMeanPool()(large.half()).item() == pytest.approx(300, rel=1e-3)


def test_average_and_maximum_side_by_side(features: torch.Tensor) -> None:
    pooled = AverageMaxPool()(features)
    torch.testing.assert_close(pooled[:, :24], features.mean(dim=(2, 3)))
    torch.testing.assert_close(pooled[:, 24:], features.amax(dim=(2, 3)))


def test_each_device_has_its_own_head_and_its_own_columns(features: torch.Tensor) -> None:
    head = DeviceHeads(24, dropout=0.0).eval()
    before = head(features)
    for device in Device:
        last = head.heads[device.name].read[-1]
        assert last.out_features == len(LABELS_OF[device])
        with torch.no_grad():
            last.bias += 1
        moved = (head(features) - before).round().bool().all(dim=0).tolist()
        assert moved == [DEVICE_OF[label] is device for label in LABELS]
        with torch.no_grad():
            last.bias -= 1


def test_the_attention_gate_is_a_map_from_0_to_1_without_biases(features: torch.Tensor) -> None:
    gate = DeviceHeads(24, dropout=0.5).heads["CVC"].gate
    shape = gate(features).shape
    assert shape == (2, 1, 5, 7) and gate(features).min() >= 0 and gate(features).max() <= 1
    convolutions = [layer for layer in gate if isinstance(layer, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 32, 16, 1]
    assert all(c.bias is None and c.kernel_size == (3, 3) for c in convolutions)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in gate) == 4
    assert sum(isinstance(layer, nn.ReLU) for layer in gate) == 3


def test_dropout_is_half_for_attention_and_none_else_unless_asked() -> None:
    def rates(head: nn.Module) -> set[float]:
        return {layer.p for layer in head.modules() if isinstance(layer, nn.Dropout)}

    assert rates(make_head("attention", 8)) == {0.5} and rates(make_head("gap", 8)) == {0.0}
    assert rates(make_head("attention", 8, 0.1)) == rates(make_head("gem", 8, 0.1)) == {0.1}


def test_errors_name_the_field_the_value_and_what_is_allowed() -> None:
    for make, what, way_out in (
        (lambda: make_head("gmp", 8), "head: 'gmp'", "gap, gem, concat, attention"),
        (lambda: make_head("gap", 8, 1.0), "dropout: 1.0", "0 to below 1"),
    ):
        with pytest.raises(Error) as refused:
            make()
        assert what in refused.value.what and way_out in refused.value.way_out
