"""The building blocks of DAMO-YOLO. Attribute names are the keys of upstream's checkpoints.

Source of the structure: tinyvision/DAMO-YOLO (commit 319572e), damo/base_models/core/ops.py
and damo/base_models/backbones/tinynas_res.py.

Every block with a BatchNorm has `fuse()`, which folds it into its convolution: exact in real
arithmetic in eval mode, and about 5e-6 in float32. The folded weights are computed in float64.
"""

import torch
from torch import Tensor, nn

BN_EPS = 1e-3  # upstream's, not torch's 1e-5; a checkpoint carries no trace of it
BN_MOMENTUM = 0.03  # not torch's 0.1


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size at stride 1 (odd kernels)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm with upstream's eps and momentum."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def folded_weights(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel (o, i, k, k) and bias (o,) of the one convolution that equals `bn(conv(x))`, float64."""
    mean, variance = bn.running_mean, bn.running_var
    if mean is None or variance is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    factor = bn.weight.detach().double() / torch.sqrt(variance.double() + bn.eps)
    bias = bn.bias.detach().double() - mean.double() * factor
    if conv.bias is not None:
        bias = bias + conv.bias.detach().double() * factor
    return conv.weight.detach().double() * factor.reshape(-1, 1, 1, 1), bias


def conv_with(kernel: Tensor, bias: Tensor, like: nn.Conv2d) -> nn.Conv2d:
    """A convolution with this kernel and bias, with the stride, dtype and device of `like`."""
    outputs, inputs, size, _ = kernel.shape
    made = nn.Conv2d(
        inputs, outputs, size, like.stride[0], size // 2, device=like.weight.device, dtype=like.weight.dtype
    )
    with torch.no_grad():
        made.weight.copy_(kernel)
        made.bias.copy_(bias)  # type: ignore[union-attr]  # nn.Conv2d makes a bias by default
    return made.requires_grad_(like.weight.requires_grad).train(like.training)


class ConvBnAct(nn.Module):
    """Convolution, BatchNorm, activation: (b, i, h, w) -> (b, o, h / stride, w / stride)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, act: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, kernel, stride)
        self.bn: nn.Module = norm(outputs)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """Activation of the normalised convolution."""
        return self.act(self.bn(self.conv(x)))

    def fuse(self) -> None:
        """Fold the BatchNorm into the convolution."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = conv_with(*folded_weights(self.conv, self.bn), like=self.conv)
            self.bn = nn.Identity()


class ConvBn(nn.Module):
    """Convolution and BatchNorm without activation; upstream names them conv1 and bn1."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, kernel)
        self.bn1: nn.Module = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(b, i, h, w) -> (b, o, h, w)."""
        return self.bn1(self.conv1(x))

    def fuse(self) -> None:
        """Fold the BatchNorm into the convolution."""
        if isinstance(self.bn1, nn.BatchNorm2d):
            self.conv1 = conv_with(*folded_weights(self.conv1, self.bn1), like=self.conv1)
            self.bn1 = nn.Identity()


class RepBranch(nn.Module):
    """One branch of a Rep unit: convolution and BatchNorm under the keys conv and bn."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs, kernel, stride)
        self.bn = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(b, i, h, w) -> (b, o, h / stride, w / stride)."""
        return self.bn(self.conv(x))


class Rep(nn.Module):
    """A 3x3 and a 1x1 branch, summed, then the activation; `fuse()` makes them one 3x3 convolution.

    There is no identity branch, not even where one would fit.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, act: type[nn.Module] = nn.Identity
    ) -> None:
        super().__init__()
        self.rbr_dense = RepBranch(inputs, outputs, 3, stride)
        self.rbr_1x1 = RepBranch(inputs, outputs, 1, stride)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """(b, i, h, w) -> (b, o, h / stride, w / stride)."""
        if hasattr(self, "rbr_reparam"):
            return self.act(self.rbr_reparam(x))
        return self.act(self.rbr_dense(x) + self.rbr_1x1(x))

    def fuse(self) -> None:
        """Replace both branches by `rbr_reparam` (upstream's deploy form)."""
        if hasattr(self, "rbr_reparam"):
            return
        kernel, bias = folded_weights(self.rbr_dense.conv, self.rbr_dense.bn)
        centre, shift = folded_weights(self.rbr_1x1.conv, self.rbr_1x1.bn)
        kernel[:, :, 1:2, 1:2] += centre
        self.rbr_reparam = conv_with(kernel, bias + shift, like=self.rbr_dense.conv)
        del self.rbr_dense, self.rbr_1x1


class Focus(nn.Module):
    """Every 2x2 cell becomes 12 channels at half the size, then a 3x3 ConvBnAct."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBnAct(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, o, h / 2, w / 2)."""
        top_left, bottom_left = x[..., 0::2, 0::2], x[..., 1::2, 0::2]
        top_right, bottom_right = x[..., 0::2, 1::2], x[..., 1::2, 1::2]
        return self.conv(torch.cat([top_left, bottom_left, top_right, bottom_right], 1))


class Spp(nn.Module):
    """Maxima over 5, 9 and 13 pixels beside the input, between two 1x1 ConvBnAct with SiLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = inputs // 2
        self.conv1 = ConvBnAct(inputs, half, 1, act=nn.SiLU)  # SiLU in an otherwise ReLU network
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.conv2 = ConvBnAct(4 * half, outputs, 1, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        """(b, i, h, w) -> (b, o, h, w)."""
        x = self.conv1(x)
        # A maximum of maxima: 5 after 5 covers 9 pixels and once more covers 13, exactly.
        five = self.pool(x)
        nine = self.pool(five)
        return self.conv2(torch.cat([x, five, nine, self.pool(nine)], 1))
