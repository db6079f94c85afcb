"""DAMO-YOLO-T against the figures upstream's code gave for the same seeded weights and inputs."""

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.golden import seeded
from workers.detector.damoyolo import DamoYolo, HeadOutputs, damoyolo_t

SHAPES = [(1, 3, 256, 256), (1, 3, 320, 192)]
FORMS = ["training form", "fused", "fused with norms"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(seeded.FIGURES) as figures:
        return dict(figures)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in seeded.state_dict(seed=1).items()}


def network(
    weights: dict[str, torch.Tensor], form: str = "training form", dtype: torch.dtype = torch.float32
) -> DamoYolo:
    made = damoyolo_t(4)
    made.load_state_dict(weights, strict=True)
    made.eval().to(dtype)  # before fusing: the folded weights are rounded to this type
    return made if form == "training form" else made.fuse(norms=form == "fused with norms")


def tag(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def test_the_seeded_weights_are_those_of_the_figures(golden: dict[str, NDArray[Any]]) -> None:
    drawn = seeded.state_dict(seed=1)
    keys = list(golden["weights/keys"])
    assert set(keys) == set(drawn)
    sums = [drawn[k].astype(np.float64).sum() for k in keys]
    norms = [np.sqrt((drawn[k].astype(np.float64) ** 2).sum()) for k in keys]
    np.testing.assert_allclose(sums, golden["weights/sum"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(norms, golden["weights/l2"], rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=tag)
def test_the_seeded_inputs_are_those_of_the_figures(
    shape: tuple[int, ...], golden: dict[str, NDArray[Any]]
) -> None:
    assert zlib.crc32(seeded.picture(shape, 1).tobytes()) == golden[f"{tag(shape)}/input_crc32"]


@pytest.mark.parametrize("classes", [1, 4, 80])
def test_the_state_dict_is_upstreams_key_by_key(classes: int) -> None:
    state = damoyolo_t(classes).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == seeded.shapes("train", classes)
    assert len(state) == 586
    whole = {k for k, v in state.items() if not v.is_floating_point()}
    assert whole == {k for k in state if k.endswith("num_batches_tracked")}


def test_the_fused_state_dict_is_upstreams_deploy_form() -> None:
    state = damoyolo_t(4).eval().fuse().state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == seeded.shapes("deploy")


@pytest.mark.parametrize(
    ("form", "classes", "parameters"),
    [
        ("training form", 4, 8_569_067),
        ("training form", 80, 8_875_727),
        ("fused", 4, 8_172_971),
        ("fused with norms", 4, 8_167_251),
    ],
)
def test_the_number_of_parameters(form: str, classes: int, parameters: int) -> None:
    made = damoyolo_t(classes).eval()
    if form != "training form":
        made.fuse(norms=form == "fused with norms")
    assert sum(p.numel() for p in made.parameters()) == parameters


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=tag)
@pytest.mark.parametrize(
    ("dtype", "suffix", "score_tolerance", "box_tolerance_px"),
    [(torch.float64, "_f64", 1e-9, 1e-6), (torch.float32, "", 3e-4, 0.2)],
    ids=["float64", "float32"],
)
def test_the_answer_is_upstreams(
    form: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    suffix: str,
    score_tolerance: float,
    box_tolerance_px: float,
    weights: dict[str, torch.Tensor],
    golden: dict[str, NDArray[Any]],
) -> None:
    x = torch.from_numpy(seeded.picture(shape, 1)).to(dtype)
    with torch.inference_mode():
        scores, boxes = network(weights, form, dtype)(x)
    assert scores.dtype == boxes.dtype == dtype
    wanted = golden[f"{tag(shape)}/scores{suffix}"], golden[f"{tag(shape)}/boxes{suffix}"]
    np.testing.assert_allclose(scores.numpy(), wanted[0], rtol=0, atol=score_tolerance)
    np.testing.assert_allclose(boxes.numpy(), wanted[1], rtol=0, atol=box_tolerance_px)


@pytest.mark.parametrize("shape", SHAPES, ids=tag)
def test_every_named_place_inside_agrees(
    shape: tuple[int, ...], weights: dict[str, torch.Tensor], golden: dict[str, NDArray[Any]]
) -> None:
    figures = {k.split("/")[1]: v for k, v in golden.items() if k.startswith(f"{tag(shape)}/")}
    made, seen = network(weights), {}
    for name in figures["points"]:
        made.get_submodule(str(name)).register_forward_hook(
            lambda _, __, output, name=str(name): seen.update({name: output})
        )
    with torch.inference_mode():
        made(torch.from_numpy(seeded.picture(shape, 1)))
    assert len(figures["points"]) == 22
    for i, name in enumerate(figures["points"]):
        values = seen[str(name)].double()
        assert tuple(values.shape) == tuple(figures["point_shape"][i]), name
        flat = values.flatten().numpy()
        spread = figures["point_std"][i]
        for ours, theirs in (
            (flat.mean(), figures["point_mean"][i]),
            (flat.std(), spread),
            (flat[:8], figures["point_first8"][i]),
            (flat[-8:], figures["point_last8"][i]),
        ):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * spread, err_msg=str(name))


@pytest.mark.parametrize("form", FORMS)
def test_an_image_gives_the_same_answer_alone_as_in_a_batch(
    form: str, weights: dict[str, torch.Tensor]
) -> None:
    made = network(weights, form, torch.float64)
    x = torch.from_numpy(seeded.picture((3, 3, 96, 160), 5)).double()
    with torch.inference_mode():
        scores, boxes = made(x)
        assert scores.shape == (3, 20 * 12 + 10 * 6 + 5 * 3, 4)
        for i in range(3):
            alone = made(x[i : i + 1])
            torch.testing.assert_close(alone[0], scores[i : i + 1], rtol=0, atol=1e-12)
            torch.testing.assert_close(alone[1], boxes[i : i + 1], rtol=0, atol=1e-9)


def test_fusing_twice_changes_nothing_and_frozen_weights_stay_frozen(
    weights: dict[str, torch.Tensor],
) -> None:
    made = network(weights).requires_grad_(False).fuse(norms=True)
    state = {k: v.clone() for k, v in made.state_dict().items()}
    again = made.fuse().fuse(norms=True).state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[k], again[k]) for k in state)
    assert not any(p.requires_grad for p in made.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in made.modules())


def test_every_batch_norm_has_upstreams_eps_and_momentum() -> None:
    norms = [m for m in damoyolo_t(4).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 95
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}
    assert len([m for m in damoyolo_t(4).modules() if isinstance(m, nn.Conv2d)]) == 101


def test_an_untrained_head_starts_at_one_percent() -> None:
    torch.manual_seed(0)
    head = damoyolo_t(4).requires_grad_(False).head
    for classes, boxes, scale in zip(head.gfl_cls, head.gfl_reg, head.scales, strict=True):
        assert torch.allclose(classes.bias.sigmoid(), torch.tensor(0.01), atol=1e-6)
        assert not boxes.bias.any()
        assert scale.scale == 1
        assert classes.weight.std() == pytest.approx(0.01, rel=0.1)
        assert boxes.weight.std() == pytest.approx(0.01, rel=0.1)


def test_the_raw_outputs_decode_to_the_answer(weights: dict[str, torch.Tensor]) -> None:
    made = network(weights)
    x = torch.from_numpy(seeded.picture((2, 3, 64, 96), 3))
    with torch.no_grad():
        wanted = made(x)
        made.head.train()  # frozen statistics in backbone and neck, raw outputs from the head
        raw = made(x)
    assert isinstance(raw, HeadOutputs)
    n = 12 * 8 + 6 * 4 + 3 * 2
    assert raw.class_logits.shape == (2, n, 4)
    assert raw.box_logits.shape == (2, n, 4, 17)
    assert raw.points[[0, 1, 12, 96, 120]].tolist() == [[0, 0], [8, 0], [0, 8], [0, 0], [0, 0]]
    assert raw.strides[[0, 95, 96, 120]].tolist() == [8, 8, 16, 32]
    for ours, theirs in zip(made.head.decode(raw), wanted, strict=True):
        assert torch.equal(ours, theirs)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    made = damoyolo_t(4).train()
    raw = made(torch.from_numpy(seeded.picture((2, 3, 64, 64), 3)))
    scores, boxes = made.head.decode(raw)
    (scores.sum() + boxes.square().sum()).backward()
    assert [k for k, p in made.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert int(made.state_dict()["backbone.block_list.0.conv.bn.num_batches_tracked"]) == 1


def test_autocast_leaves_the_decoding_in_float32(weights: dict[str, torch.Tensor]) -> None:
    made = network(weights)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scores, boxes = made(torch.from_numpy(seeded.picture((1, 3, 64, 64), 3)))
    assert scores.dtype == boxes.dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 3, 64, 65), (1, 3, 48, 64), (1, 1, 64, 64), (3, 64, 64)], ids=str)
def test_an_input_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        damoyolo_t(4).eval()(torch.zeros(shape))


def test_a_network_has_at_least_one_class() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        damoyolo_t(0)
