"""Network weights as safetensors: written in half precision, read back strictly.

What is stored is the training form (586 keys of DAMO-YOLO-T), so that a package can be trained
further; fusing happens after loading.
"""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from hipnode.errors import PackageError

_HALF_MAX = torch.finfo(torch.float16).max


def weights_bytes(
    state: Mapping[str, Tensor], half: bool = True, metadata: Mapping[str, str] | None = None
) -> bytes:
    """The state dict of a network as the bytes of a safetensors file.

    half: store convolution kernels (4 dimensions) as float16, a relative error of 5e-4 at most and
        half the size. Everything else keeps its type: statistics of a BatchNorm on 0..255 input
        pass float16's range.
    Raises ValueError for a value that is not finite or is too large for float16.
    """
    stored = {}
    for key, value in state.items():
        tensor = value.detach().to("cpu").contiguous()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{key} has values that are not finite")
        if half and tensor.ndim == 4:
            if tensor.abs().max() > _HALF_MAX:
                raise ValueError(f"{key} has values too large for float16; store it with half=False")
            tensor = tensor.half()
        stored[key] = tensor
    return save(stored, dict(metadata) if metadata else None)


def load_weights(network: nn.Module, data: bytes) -> None:
    """Fill a network with the weights of a safetensors file: every key, every shape, nothing else.

    Values are converted to the network's own types. Raises PackageError that names the first keys
    that are missing, unknown or of another shape, and values that are not finite.
    """
    try:
        stored = load(data)
    except SafetensorError as error:
        raise PackageError("The weights are not a readable safetensors file.") from error
    own = network.state_dict()
    problems = [f"{key} is missing" for key in own.keys() - stored.keys()]
    problems += [f"{key} is unknown to this network" for key in stored.keys() - own.keys()]
    for key in own.keys() & stored.keys():
        wanted, given = tuple(own[key].shape), tuple(stored[key].shape)
        if wanted != given:
            problems.append(f"{key} has shape {given} instead of {wanted}")
        elif stored[key].is_floating_point() and not torch.isfinite(stored[key]).all():
            problems.append(f"{key} has values that are not finite")
    if problems:
        shown = sorted(problems)[:5]
        more = f" and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        raise PackageError(f"The weights do not fit the network: {'; '.join(shown)}{more}.")
    network.load_state_dict(stored, strict=True)
