"""The detector: films in, boxes in pixels of those films out, in batches on one device."""

import contextlib
import copy
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hipnode.errors import DeviceMissing, PackageError, ReasonedError, SettingsError
from hipnode.findings import Detections
from hipnode.packages import ModelPackage
from hipnode.status import ReasonCode
from workers.detector.checkpoint import load_weights
from workers.detector.damoyolo import DamoYolo, damoyolo_t
from workers.detector.nms import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD, multiclass_nms
from workers.detector.resize import Method, Stretch, stretch

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_SIZES = {"cpu": 1, "cuda": 16}


def find_device(name: str) -> torch.device:
    """The device called "cpu", "cuda" (the first) or "cuda:N".

    Raises DeviceMissing where it is not there: a worker that was told to use a GPU never works
    on the CPU instead.
    """
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise DeviceMissing(f"There is no device {name!r}; name cpu or cuda:N.")
    index = int(match[1] or 0)
    if not torch.cuda.is_available():
        why = (
            "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device works here"
        )
        raise DeviceMissing(f"The device {name} is not there: {why}. Use --device cpu, or install it.")
    if index >= torch.cuda.device_count():
        raise DeviceMissing(
            f"The device {name} is not there: this machine has {torch.cuda.device_count()} "
            "CUDA device(s), counted from cuda:0."
        )
    return torch.device("cuda", index)


def choose_precision(precision: str, device: torch.device) -> str:
    """ "fp32", "bf16" or "fp16" for what was asked.

    "auto" is fp32 everywhere, so that every worker of a site gives the same numbers, whatever its
    processor: a retry on another machine must find the same result, not a new one. bf16 is 2.5 to
    4 times as fast on a CPU with AMX; a site chooses it for all of its workers or for none.
    Raises SettingsError for an unknown word, and for fp16 on the CPU.
    """
    if precision == "auto":
        return "fp32"
    if precision not in DTYPES:
        raise SettingsError(f"There is no precision {precision!r}; it is auto, {', '.join(DTYPES)}.")
    if precision == "fp16" and device.type == "cpu":
        raise SettingsError("fp16 is for CUDA devices; on the CPU use fp32 or bf16.")
    return precision


class DamoYoloDetector:
    """DAMO-YOLO on one device, ready to look at films.

    network: with its weights, in training form or fused; it is copied, fused and left as it was
    input_size: (width, height) films are stretched to, pixels
    score_threshold, iou_threshold: which boxes come out (score above, per-class NMS)
    batch_size: films that go through the network at once; None: 1 on the CPU (two at once are no
        faster there), 16 on CUDA
    threads: CPU threads of this whole process; None leaves torch's choice
    Raises DeviceMissing, SettingsError.
    """

    def __init__(
        self,
        network: DamoYolo,
        input_size: tuple[int, int],
        *,
        score_threshold: float = SCORE_THRESHOLD,
        iou_threshold: float = IOU_THRESHOLD,
        resize: Method = "antialias",
        device: str = "cpu",
        precision: str = "auto",
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.device = find_device(device)
        self.precision = choose_precision(precision, self.device)
        self.batch_size = batch_size or BATCH_SIZES[self.device.type]
        self.input_size = input_size
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.resize: Method = resize
        if threads is not None:
            torch.set_num_threads(threads)
        self._dtype = DTYPES[self.precision]
        self._network = self._prepared(network)

    def _prepared(self, network: DamoYolo) -> DamoYolo:
        # Folded BatchNorms in whole bf16 weights beat autocast, which casts the weights on each call.
        own = copy.deepcopy(network).float().eval().fuse(norms=True).requires_grad_(False)
        own = own.to(self.device, self._dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        own.head.scales.float()  # the head's own arithmetic stays in float32
        own.head.integral.float()
        return own

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """What is in each film: one Detections per image, boxes in pixels of that film, not clipped.

        images: (rows, columns) uint8 display values, bone bright; sizes may differ
        An image gives the same answer alone as in a batch: exactly on the CPU, within 1e-3 of a
        score and 0.5 px of the input on CUDA. Raises ReasonedError (INTERNAL) when the network's
        numbers are not finite.
        """
        found: list[Detections] = []
        for start in range(0, len(images), self.batch_size):
            found += self._detect_batch(images[start : start + self.batch_size])
        return found

    def _detect_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        stretched = [stretch(image, self.input_size, self.resize) for image in images]
        with torch.inference_mode(), _exact_convolutions(self.device):
            gray = torch.from_numpy(np.stack([pixels for pixels, _ in stretched])).to(self.device)
            x = gray[:, None].expand(-1, 3, -1, -1).to(self._dtype, memory_format=torch.channels_last)
            scores, boxes = self._network(x)
            kept = self._above_threshold(scores, boxes)
        return [self._in_image(*one, mapping) for one, (_, mapping) in zip(kept, stretched, strict=True)]

    def _above_threshold(
        self, scores: Tensor, boxes: Tensor
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]]:
        """Per image the boxes (k, 4), scores (k,), class ids (k,) of all candidates, on the CPU."""
        if not bool(torch.isfinite(scores).all() & torch.isfinite(boxes).all()):
            raise ReasonedError(
                ReasonCode.INTERNAL,
                f"The network's answer in {self.precision} is not finite; try --precision fp32.",
            )
        # The threshold is applied on the device: little comes back over the bus.
        image, point, class_id = torch.nonzero(scores > self.score_threshold, as_tuple=True)
        chosen = boxes[image, point].cpu().numpy(), scores[image, point, class_id].cpu().numpy()
        owner, classes = image.cpu().numpy(), class_id.cpu().numpy()
        for i in range(len(scores)):
            own = owner == i
            yield chosen[0][own], chosen[1][own], classes[own]

    def _in_image(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        mapping: Stretch,
    ) -> Detections:
        # IoU does not change under a stretch, but its float32 rounding does: suppress in input pixels.
        seen = multiclass_nms(boxes, scores, class_ids, self.iou_threshold, MAX_DETECTIONS)
        return Detections(mapping.to_image(seen.boxes), seen.scores, seen.class_ids)


def _exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """On CUDA: convolutions in true float32 (not TF32) by algorithms that give the same answer each time."""
    if device.type == "cpu":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def detector_of(
    package: ModelPackage,
    *,
    device: str = "cpu",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
) -> DamoYoloDetector:
    """The detector of a model package, having looked at one blank film.

    The bytes that are loaded are the bytes that are hashed. Raises PackageError, DeviceMissing,
    SettingsError; ReasonedError when the weights give numbers that are not finite.
    """
    data = package.weights_file.read_bytes()
    if hashlib.sha256(data).hexdigest() != package.sha256:
        raise PackageError(f"The weights of the model package {package.id} changed since it was read.")
    network = damoyolo_t(len(package.algorithm.classes))
    if package.manifest.weights.form == "fused":
        network.fuse()
    load_weights(network, data)
    detector = DamoYoloDetector(
        network,
        package.input_size,
        score_threshold=package.rule.tau_min,
        iou_threshold=package.rule.nms_iou,
        resize=package.manifest.input.resize,
        device=device,
        precision=precision,
        batch_size=batch_size,
        threads=threads,
    )
    width, height = package.input_size
    detector.detect([np.zeros((height, width), np.uint8)])  # what cannot work fails at the start
    return detector
