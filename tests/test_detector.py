"""The detector: packages in, boxes in pixels of the film out; devices, precisions, damaged weights."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hipnode.errors import DeviceMissing, PackageError, ReasonedError, SettingsError
from hipnode.findings import Detections
from hipnode.packages import ModelPackage, find_packages
from tests.golden import seeded
from tests.packages import make_package
from workers.detector import load_detector
from workers.detector.checkpoint import load_weights, weights_bytes
from workers.detector.damoyolo import DamoYolo, damoyolo_t
from workers.detector.inference import DamoYoloDetector
from workers.detector.nms import candidates, multiclass_nms

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
WIDTH, HEIGHT = 256, 192
# Few candidates: seeded weights call about every second point a fracture at 0.05.
DECISION = {"thresholds": dict.fromkeys(("DF", "VF", "SF", "UF"), 0.5), "tau_min": 0.3, "nms_iou": 0.5}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in seeded.state_dict(seed=1).items()}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, state: dict[str, torch.Tensor]) -> ModelPackage:
    folder = tmp_path_factory.mktemp("package")
    return make_package(folder, weights_bytes(state, half=False), decision=DECISION)


@pytest.fixture(scope="module")
def detector(package: ModelPackage) -> DamoYoloDetector:
    return load_detector(package)


def film(rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """Blocks and noise, so that seeded weights see something."""
    g = np.random.default_rng(seed)
    coarse = g.integers(0, 256, (rows // 32 + 1, columns // 32 + 1)).repeat(32, 0).repeat(32, 1)
    mixed = (2 * coarse[:rows, :columns] + g.integers(0, 256, (rows, columns))) // 3
    return mixed.astype(np.uint8)


def assert_same(a: Detections, b: Detections, score: float = 0.0, box_px: float = 0.0) -> None:
    np.testing.assert_array_equal(a.class_ids, b.class_ids)
    np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=score)
    np.testing.assert_allclose(a.boxes, b.boxes, rtol=0, atol=box_px)


def test_no_film_gives_no_answer(detector: DamoYoloDetector) -> None:
    assert detector.detect([]) == []


def test_the_answer_is_the_networks_after_suppression(
    detector: DamoYoloDetector, state: dict[str, torch.Tensor]
) -> None:
    pixels = film(HEIGHT, WIDTH)
    network = damoyolo_t(4)
    network.load_state_dict(state)
    with torch.inference_mode():
        x = torch.from_numpy(pixels).float().expand(1, 3, -1, -1)
        scores, boxes = network.eval()(x)
    wanted = multiclass_nms(*candidates(scores[0].numpy(), boxes[0].numpy(), 0.3), 0.5)
    (found,) = detector.detect([pixels])
    assert len(found) > 10
    assert_same(found, wanted, score=3e-4, box_px=0.2)
    assert (found.boxes.dtype, found.scores.dtype, found.class_ids.dtype) == ("f4", "f4", "i8")


def test_boxes_are_in_pixels_of_the_stored_film(detector: DamoYoloDetector) -> None:
    pixels = film(HEIGHT, WIDTH)
    larger = pixels.repeat(3, 0).repeat(2, 1)  # shrinks back to nearly the same picture
    nearest = DamoYoloDetector(
        detector._network, (WIDTH, HEIGHT), score_threshold=0.3, iou_threshold=0.5, resize="bilinear"
    )
    # Bilinear reads the middle of each 3 x 2 block of equal pixels: exactly the small picture.
    (small,), (large,) = nearest.detect([pixels]), nearest.detect([larger])
    np.testing.assert_array_equal(small.scores, large.scores)
    np.testing.assert_allclose(small.boxes * [2, 3, 2, 3], large.boxes, rtol=1e-6, atol=1e-3)


def test_a_film_gives_the_same_answer_alone_as_in_a_batch(detector: DamoYoloDetector) -> None:
    films = [film(HEIGHT, WIDTH, 1), film(500, 411, 2), film(200, 900, 3)]
    together = detector.detect(films)
    assert len(together) == 3
    for one, answer in zip(films, together, strict=True):
        assert_same(detector.detect([one])[0], answer)


def test_a_real_batch_answers_as_single_films_do(package: ModelPackage, detector: DamoYoloDetector) -> None:
    films = [film(HEIGHT, WIDTH, 1), film(HEIGHT, WIDTH, 2), film(HEIGHT, WIDTH, 3)]
    batched = load_detector(package, batch_size=2)
    for one, answer in zip(detector.detect(films), batched.detect(films), strict=True):
        assert_same(one, answer, score=3e-4, box_px=0.2)


def test_the_network_handed_in_is_left_as_it_was(state: dict[str, torch.Tensor]) -> None:
    network = damoyolo_t(4).train()
    network.load_state_dict(state)
    DamoYoloDetector(network, (64, 64), precision="bf16")
    assert network.training
    assert all(torch.equal(network.state_dict()[k], v) for k, v in state.items())


def test_bf16_gives_finite_boxes_in_the_film(package: ModelPackage) -> None:
    # How near bf16 is says nothing here: seeded weights magnify rounding as trained ones do not.
    found = load_detector(package, precision="bf16").detect([film(HEIGHT, WIDTH)])
    assert len(found[0]) > 0
    assert np.isfinite(found[0].boxes).all()


@pytest.mark.parametrize(
    ("device", "words"),
    [("tpu", "no device 'tpu'"), ("cuda:x", "no device"), ("cuda:99", "cuda:99 is not there")],
)
def test_a_device_that_is_not_there_is_an_error(device: str, words: str, package: ModelPackage) -> None:
    with pytest.raises(DeviceMissing, match=words):
        load_detector(package, device=device)


@pytest.mark.parametrize(("precision", "words"), [("fp8", "no precision 'fp8'"), ("fp16", "CUDA")])
def test_a_precision_that_cannot_be_is_an_error(precision: str, words: str, package: ModelPackage) -> None:
    with pytest.raises(SettingsError, match=words):
        load_detector(package, precision=precision)


def test_half_precision_storage_keeps_statistics_exact(state: dict[str, torch.Tensor]) -> None:
    network = damoyolo_t(4)
    load_weights(network, weights_bytes(state))
    for key, value in network.state_dict().items():
        assert value.dtype == state[key].dtype
        if value.ndim == 4:
            torch.testing.assert_close(value, state[key], rtol=5e-4, atol=1e-7)
        else:
            assert torch.equal(value, state[key]), key
    assert len(weights_bytes(state)) < 18e6


def test_values_that_cannot_be_stored_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        weights_bytes({"a": torch.tensor([np.nan])})
    with pytest.raises(ValueError, match="too large for float16"):
        weights_bytes({"a": torch.full((1, 1, 1, 1), 1e5)})
    assert weights_bytes({"a": torch.full((1, 1, 1, 1), 1e5)}, half=False)


def without(state: dict[str, torch.Tensor], *keys: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state.items() if k not in keys}


SCALE = "head.scales.0.scale"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: without(s, SCALE), f"{SCALE} is missing"),
        (lambda s: {**s, "head.extra": torch.ones(1)}, "head.extra is unknown"),
        (lambda s: {**s, SCALE: torch.ones(2)}, rf"{SCALE} has shape \(2,\) instead of \(\)"),
        (lambda s: {k: v for k, v in s.items() if "head" in k}, "and 56[0-9] more"),
    ],
    ids=["missing", "unknown", "shape", "many"],
)
def test_weights_of_another_network_are_refused_by_name(
    change: Any, words: str, state: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(PackageError, match=words):
        load_weights(damoyolo_t(4), weights_bytes(change(state)))


def test_weights_that_are_not_finite_are_refused(state: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save

    with pytest.raises(PackageError, match=f"{SCALE} has values that are not finite"):
        load_weights(damoyolo_t(4), save({**state, SCALE: torch.tensor(np.inf, dtype=torch.float32)}))


def test_a_cut_file_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    cut = weights_bytes(state)[:-10]
    with pytest.raises(PackageError, match="not a readable safetensors file"):
        load_detector(make_package(tmp_path, cut))


def test_weights_that_change_after_the_package_was_read_are_refused(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    made = make_package(tmp_path, weights_bytes(state))
    made.weights_file.write_bytes(weights_bytes({**state, SCALE: torch.tensor(2.0)}))
    with pytest.raises(PackageError, match="changed since it was read"):
        load_detector(made)


def test_an_answer_that_is_not_finite_is_an_error_and_no_result(state: dict[str, torch.Tensor]) -> None:
    network = damoyolo_t(4)
    network.load_state_dict({**state, "head.gfl_reg.1.bias": torch.full((68,), torch.inf)})
    with pytest.raises(ReasonedError, match="not finite"):
        DamoYoloDetector(network, (64, 64)).detect([film(64, 64)])


def test_torch_is_imported_when_a_detector_is_loaded_and_not_before() -> None:
    code = "import sys, workers.detector; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("id_", sorted(find_packages([], verify=False)))
def test_a_shipped_package_loads_and_bf16_stays_near(id_: str) -> None:
    shipped = find_packages([])[id_]
    width, height = shipped.input_size
    pixels = film(height, width)
    exact = load_detector(shipped)
    assert len(exact.detect([pixels])) == 1
    coarse = load_detector(shipped, precision="bf16")
    x = torch.from_numpy(pixels).expand(1, 3, -1, -1)
    with torch.inference_mode():
        scores = exact._network(x.float())[0]
        rounded = coarse._network(x.bfloat16())[0]
    assert (scores - rounded).abs().max() < 0.05


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["fp32"])
def test_cuda_sees_what_the_cpu_sees(precision: str, package: ModelPackage) -> None:
    films = [film(HEIGHT, WIDTH, 1), film(500, 411, 2), film(HEIGHT, WIDTH, 3)]
    on_cuda = load_detector(package, device="cuda:0", precision=precision)
    assert on_cuda.device == torch.device("cuda", 0)
    for cpu, cuda in zip(load_detector(package).detect(films), on_cuda.detect(films), strict=True):
        assert_same(cpu, cuda, score=1e-3, box_px=0.5 * 500 / HEIGHT)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_cuda_in_half_precision_gives_finite_boxes(precision: str, package: ModelPackage) -> None:
    (found,) = load_detector(package, device="cuda:0", precision=precision).detect([film(HEIGHT, WIDTH)])
    assert len(found) > 0
    assert np.isfinite(found.boxes).all()


@pytest.mark.gpu
@needs_cuda
def test_the_network_meets_the_golden_answer_on_cuda(state: dict[str, torch.Tensor]) -> None:
    network: DamoYolo = damoyolo_t(4)
    network.load_state_dict(state)
    network = network.eval().to("cuda:0", torch.float64)
    with np.load(seeded.FIGURES) as golden, torch.inference_mode():
        scores, boxes = network(torch.from_numpy(seeded.picture((1, 3, 320, 192), 1)).to("cuda:0").double())
        np.testing.assert_allclose(scores.cpu(), golden["1x3x320x192/scores_f64"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(boxes.cpu(), golden["1x3x320x192/boxes_f64"], rtol=0, atol=1e-6)
