"""DAMO-YOLO-T put together: backbone, neck, head.

Written from the published architecture (tinyvision/DAMO-YOLO, Apache-2.0, commit 319572e,
configs/damoyolo_tinynasL20_T.py); upstream's checkpoints load strictly.
"""

from typing import Any

from torch import Tensor, nn

from workers.detector.damoyolo.backbone import TinyNas
from workers.detector.damoyolo.head import HeadOutputs, ZeroHead
from workers.detector.damoyolo.layers import ConvBn, ConvBnAct, Rep
from workers.detector.damoyolo.neck import RepGfpn

LARGEST_STRIDE = 32
NECK_CHANNELS = (64, 128, 256)


class DamoYolo(nn.Module):
    """A one-stage detector: a score per class and one box at every point of three grids.

    In eval mode `model(x)` gives (scores, boxes):
        x: (b, 3, h, w) float32, RGB, 0..255 as they are; h and w multiples of 32
        scores: (b, n, classes) in 0..1, after the sigmoid
        boxes: (b, n, 4) column_min, row_min, column_max, row_max in input pixels, not clipped,
            before non-maximum suppression
    In training mode it gives HeadOutputs: class_logits (b, n, classes), box_logits
    (b, n, 4, 17), points (n, 2), strides (n,); `model.head.decode` turns them into the above,
    and a loss backward through either reaches every parameter. The mode that counts is the
    head's, so backbone and neck can stay in eval mode (frozen statistics) while training.

    Raises ValueError when x has another number of channels or a size that is no multiple of 32.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: ZeroHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, x: Tensor) -> Any:
        """(scores, boxes) in eval mode, HeadOutputs in training mode; see the class."""
        self._check(x)
        return self.head(self.neck(self.backbone(x)))

    def outputs(self, x: Tensor) -> HeadOutputs:
        """The undecoded outputs in either mode, e.g. for a validation loss."""
        self._check(x)
        return self.head.outputs(self.neck(self.backbone(x)))

    def fuse(self, norms: bool = False) -> "DamoYolo":
        """Fold the Rep branches in place (upstream's deploy form) and return the model.

        norms: fold the other 47 BatchNorms as well. For inference only, after loading the weights
        of the training form: the running statistics become part of the weights, so the folded
        model answers as the eval mode does. Calling it twice changes nothing.
        """
        kinds = (Rep, ConvBn, ConvBnAct) if norms else (Rep,)
        for module in list(self.modules()):
            if isinstance(module, kinds):
                module.fuse()
        return self

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % LARGEST_STRIDE or x.shape[3] % LARGEST_STRIDE:
            raise ValueError(
                f"the input must be (b, 3, h, w) with h and w multiples of {LARGEST_STRIDE}, "
                f"not {tuple(x.shape)}"
            )


def damoyolo_t(num_classes: int) -> DamoYolo:
    """DAMO-YOLO-T (TinyNAS L20) for `num_classes` classes, with its initial weights, in training form.

    The state dict has the 586 keys of upstream's checkpoints; BatchNorm eps (1e-3) and momentum
    (0.03) are upstream's. Only `head.gfl_cls.*` depends on the number of classes.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {num_classes}")
    return DamoYolo(TinyNas(), RepGfpn(outputs=NECK_CHANNELS), ZeroHead(num_classes, NECK_CHANNELS))
