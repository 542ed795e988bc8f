"""The network of the quality probe: eight poses of a frontal chest film, what is none, and what is cut off.

`cxrlines quality` trains it and writes `quality.safetensors`, and the same as ONNX; `reading/probe` is what asks it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from cxrlines.core.quality import OTHER
from cxrlines.models.onnx_export import export
from cxrlines.models.weights import WeightsError, imagenet_tensors, load_into, save_weights

BACKBONE = "tf_efficientnet_lite0"
SIZE = 112
"""px a side of the film that it sees."""
_STAGES, _WIDTH, _MID, _GRID = 4, 80, 32, 4
_FROZEN = 2


class OrientationNet(nn.Module):
    """The first four stages of EfficientNet-Lite0 and two layers on a grid of 4 x 4.

    A film is standardised first, so that brightness and contrast do not matter.

    Args:
        start: `imagenet` as the weights to begin with (`WeightsError` where they cannot be had), or `none`.
    """

    def __init__(self, start: str = "none") -> None:
        super().__init__()
        whole: Any = timm.create_model(BACKBONE, in_chans=1)
        if start == "imagenet":
            counters = {name: t for name, t in whole.state_dict().items() if name.endswith("num_batches_tracked")}
            load_into(whole, counters | imagenet_tensors(BACKBONE)[0])
        self.early = nn.Sequential(whole.conv_stem, whole.bn1, *whole.blocks[:_FROZEN])
        self.late = whole.blocks[_FROZEN:_STAGES]
        self.mix = nn.Conv2d(_WIDTH, _MID, 1)
        self.hidden = nn.Linear(_MID * _GRID**2, 64)
        self.out = nn.Linear(64, OTHER + 2)

    def train(self, mode: bool = True) -> "OrientationNet":
        """But batch norm keeps ImageNet's means: batches of films and of all else have none in common."""
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, films: Tensor) -> Tensor:
        """Logits (n, 10) of films (n, SIZE, SIZE) uint8: the eight `POSES`, `OTHER`, and of being cut off."""
        x = films[:, None].float()
        mean, spread = x.mean(dim=(2, 3), keepdim=True), x.std(dim=(2, 3), keepdim=True)
        x = 0.5 * (x - mean) / (spread + 2)  # the spread that photographs have in ImageNet's scale
        with torch.no_grad():  # edges and textures need no training, and cost the most
            x = self.early(x)
        x = functional.relu(self.mix(self.late(x)))
        x = functional.adaptive_avg_pool2d(x, _GRID).flatten(1)
        x = functional.dropout(x, 0.2, self.training)
        logits: Tensor = self.out(functional.relu(self.hidden(x)))
        return logits


def read_orientation_net(path: Path) -> OrientationNet:
    """The network of a file that `write_orientation_net` wrote. `WeightsError` if it holds another, or is damaged."""
    net = OrientationNet()
    counters = {name: t for name, t in net.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        net.load_state_dict(counters | load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        why = " ".join(str(error).split())
        raise WeightsError(f"no probe of quality: {path}: {why}", "`cxrlines quality` fits one") from error
    return net.eval()


def write_orientation_net(net: OrientationNet, path: Path, meta: Mapping[str, str]) -> Path:
    """Its weights in 16 bits, without the counters of batches; beside it, named `.onnx`, the same as an ONNX file."""
    kept = {name: t.half() for name, t in net.state_dict().items() if t.is_floating_point()}
    save_weights(path, kept, meta)
    path.with_suffix(".onnx").write_bytes(exported(read_orientation_net(path)))
    return path


def exported(net: OrientationNet) -> bytes:
    """The network as an ONNX file with weights in 16 bits: films (n, SIZE, SIZE) uint8 to `logits`."""
    return export(net.eval(), (SIZE, SIZE), ("logits",))
