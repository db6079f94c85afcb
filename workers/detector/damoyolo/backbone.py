"""The backbone: TinyNAS "L20" (k1kx), three feature maps at strides 8, 16 and 32.

Source: tinyvision/DAMO-YOLO, damo/base_models/backbones/{tinynas_res.py,nas_backbones/
tinynas_L20_k1kx.txt}.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from workers.detector.damoyolo.layers import ConvBn, Focus, Rep, Spp


@dataclass(frozen=True)
class StageShape:
    """One stage: channels in, out and of the bottleneck, number of blocks, stride, SPP at its end."""

    inputs: int
    outputs: int
    bottleneck: int
    blocks: int
    stride: int
    spp: bool = False


STEM_CHANNELS = 24
L20_STAGES = (
    StageShape(24, 64, 24, 2, 2),
    StageShape(64, 96, 64, 2, 2),
    StageShape(96, 192, 96, 2, 2),
    StageShape(192, 192, 152, 2, 1),
    StageShape(192, 384, 192, 1, 2, spp=True),
)
OUT_INDICES = (2, 4, 5)  # entries of block_list whose output leaves the backbone


class ResidualBlock(nn.Module):
    """1x1 ConvBn, ReLU, 3x3 Rep, ReLU; the input is added before the last ReLU at stride 1."""

    def __init__(self, inputs: int, outputs: int, bottleneck: int, stride: int) -> None:
        super().__init__()
        if stride == 1 and inputs != outputs:
            raise ValueError("a block of stride 1 keeps its channels; a projection never occurs in this net")
        self.conv1 = ConvBn(inputs, bottleneck, 1)
        self.conv2 = Rep(bottleneck, outputs, stride)
        self.relu = nn.ReLU()
        self.shortcut = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(b, i, h, w) -> (b, o, h / stride, w / stride)."""
        y = self.conv2(self.relu(self.conv1(x)))
        return self.relu(y + x if self.shortcut else y)


class Stage(nn.Module):
    """Residual blocks, the first with the stage's stride, and an SPP after them where asked for."""

    def __init__(self, shape: StageShape) -> None:
        super().__init__()
        self.block_list = nn.ModuleList()
        inputs, stride = shape.inputs, shape.stride
        for _ in range(shape.blocks):
            self.block_list.append(ResidualBlock(inputs, shape.outputs, shape.bottleneck, stride))
            inputs, stride = shape.outputs, 1
        if shape.spp:
            self.block_list.append(Spp(shape.outputs, shape.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(b, i, h, w) -> (b, o, h / stride, w / stride)."""
        for block in self.block_list:
            x = block(x)
        return x


class TinyNas(nn.Module):
    """Focus stem and stages. The key prefix is `backbone.block_list.<entry>`."""

    def __init__(
        self, stages: Sequence[StageShape] = L20_STAGES, out_indices: Sequence[int] = OUT_INDICES
    ) -> None:
        super().__init__()
        self.block_list = nn.ModuleList([Focus(STEM_CHANNELS), *(Stage(s) for s in stages)])
        self.out_indices = tuple(out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 3, h, w) -> [(b, 96, h/8, w/8), (b, 192, h/16, w/16), (b, 384, h/32, w/32)]."""
        features = []
        for index, block in enumerate(self.block_list):
            x = block(x)
            if index in self.out_indices:
                features.append(x)
        return features
