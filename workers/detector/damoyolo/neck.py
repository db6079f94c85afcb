"""The neck: Efficient RepGFPN ("GiraffeNeckV2"), which mixes the three feature maps.

Source: tinyvision/DAMO-YOLO, damo/base_models/necks/giraffe_fpn_btn.py and core/ops.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workers.detector.damoyolo.layers import ConvBnAct, Rep


class ReverseBlock(nn.Module):
    """Rep, then a 3x3 ConvBnAct, plus the input. (conv2 runs before conv1, hence "reverse".)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBnAct(channels, channels, 3)
        self.conv2 = Rep(channels, channels, act=nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        return x + self.conv1(self.conv2(x))


class CspStage(nn.Module):
    """Two 1x1 paths, a chain of blocks on the second, all of their outputs merged by a 1x1."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = ConvBnAct(inputs, half, 1)
        self.conv2 = ConvBnAct(inputs, outputs - half, 1)
        self.convs = nn.ModuleList(ReverseBlock(outputs - half) for _ in range(blocks))
        self.conv3 = ConvBnAct(half + blocks * (outputs - half), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, i, h, w) -> (b, o, h, w)."""
        merged = [self.conv1(x)]
        y = self.conv2(x)  # starts the chain and is not itself among the merged maps
        for block in self.convs:
            y = block(y)
            merged.append(y)
        return self.conv3(torch.cat(merged, 1))


class RepGfpn(nn.Module):
    """Five merges: up from stride 32 to 8, then down again. Numbers in names are upstream's nodes."""

    def __init__(
        self,
        inputs: Sequence[int] = (96, 192, 384),
        outputs: Sequence[int] = (64, 128, 256),
        blocks: int = 3,
    ) -> None:
        super().__init__()
        c8, c16, c32 = inputs
        o8, o16, o32 = outputs
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.bu_conv13 = ConvBnAct(c16, c16, 3, 2)
        self.merge_3 = CspStage(c16 + c32, c32, blocks)
        self.bu_conv24 = ConvBnAct(c8, c8, 3, 2)
        self.merge_4 = CspStage(c8 + c16 + c32, c16, blocks)
        self.merge_5 = CspStage(c16 + c8, o8, blocks)
        self.bu_conv57 = ConvBnAct(o8, o8, 3, 2)
        self.merge_7 = CspStage(o8 + c16, o16, blocks)
        self.bu_conv46 = ConvBnAct(c16, c16, 3, 2)
        self.bu_conv76 = ConvBnAct(o16, o16, 3, 2)
        self.merge_6 = CspStage(c16 + o16 + c32, o32, blocks)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps at strides 8, 16, 32 (96, 192, 384 channels) -> the same strides (64, 128, 256)."""
        x2, x1, x0 = features
        x3 = self.merge_3(torch.cat([x0, self.bu_conv13(x1)], 1))  # (b, 384, h/32, w/32)
        x4 = self.merge_4(torch.cat([x1, self.bu_conv24(x2), self.upsample(x3)], 1))  # (b, 192, h/16, w/16)
        x5 = self.merge_5(torch.cat([x2, self.upsample(x4)], 1))  # (b, 64, h/8, w/8)
        x7 = self.merge_7(torch.cat([x4, self.bu_conv57(x5)], 1))  # (b, 128, h/16, w/16)
        x6 = self.merge_6(torch.cat([x3, self.bu_conv46(x4), self.bu_conv76(x7)], 1))  # (b, 256, h/32, w/32)
        return [x5, x7, x6]
