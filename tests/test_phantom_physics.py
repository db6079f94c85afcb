"""The phantom's physics against the tables it is built on."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from workers.phantom.anatomy import draw_femur  # noqa: E402
from workers.phantom.dataset import prepare_process  # noqa: E402
from workers.phantom.fields import capsule, ellipsoid, sphere  # noqa: E402
from workers.phantom.fracture import Leg, intact  # noqa: E402
from workers.phantom.generate import bone_points, project_femur  # noqa: E402
from workers.phantom.projection import MU, TABLE, Exposure, Geometry, Slab, attenuation, blur, expose  # noqa: E402
from workers.phantom.random import stream, truncated_normal  # noqa: E402
from workers.phantom.texture import trabecular_map  # noqa: E402

GEOMETRY = Geometry(1150.0, 125.0, 0.47, 640, 512, (0.0, 0.0), (256.0, 320.0))
CLEAN = Exposure(0.0, 60.0, 1e12, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    prepare_process()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("material", "at_50", "at_60"),
    [("water", 0.227, 0.206), ("cortical", 0.815, 0.604), ("muscle", 0.238, 0.215)],
)
def test_attenuation_at_55_kev_lies_on_the_log_log_line_between_the_tables_values(material, at_50, at_60):
    assert TABLE[material] == (at_50, at_60)
    assert attenuation(material, 50.0) == pytest.approx(at_50)
    assert attenuation(material, 60.0) == pytest.approx(at_60)
    assert at_60 < MU[material] < at_50


def test_20_cm_of_water_and_a_cortical_step_wedge_transmit_as_beer_lambert_says():
    thickness = torch.zeros(64, 64)
    thickness[:, 32:] = 20.0 * MU["water"]
    signal, _ = expose(thickness, GEOMETRY, CLEAN, np.random.default_rng(1))
    assert float(signal[32, 50] / signal[32, 10]) == pytest.approx(
        math.exp(-20.0 * attenuation("water")), rel=0.01
    )
    wedge = (
        torch.arange(11, dtype=torch.float32).repeat_interleave(16)[None, :].repeat(64, 1)
        * 0.1
        * MU["cortical"]
    )
    signal, _ = expose(wedge, GEOMETRY, CLEAN, np.random.default_rng(1))
    steps = signal[32, 8::16] / signal[32, 8]
    expected = [math.exp(-mm / 10.0 * attenuation("cortical")) for mm in range(11)]
    assert steps.numpy() == pytest.approx(np.array(expected), rel=0.01)


def test_noise_variance_falls_with_dose_at_slope_one_and_is_poissons():
    doses = np.array([200.0, 800.0, 3200.0])
    variances = []
    for dose in doses:
        exposure = Exposure(0.0, 60.0, dose, 0.0, 0.0, 0.0, 1.0)
        signal, _ = expose(torch.zeros(400, 400), GEOMETRY, exposure, np.random.default_rng(3))
        variances.append(float(signal.var()))
    slope = np.polyfit(np.log(doses), np.log(variances), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.03)
    assert variances[0] == pytest.approx(1.0 / (doses[0] * (0.47 / 0.143) ** 2), rel=0.03)


def test_scatter_lowers_contrast_by_one_over_one_plus_its_ratio():
    thickness = torch.zeros(640, 512)
    thickness[310:330, 246:266] = 0.2
    contrast = []
    for ratio in (0.0, 1.0):
        exposure = Exposure(ratio, 60.0, 1e12, 0.0, 0.0, 0.0, 0.0)
        signal, _ = expose(thickness, GEOMETRY, exposure, np.random.default_rng(1))
        contrast.append(1.0 - float(signal[320, 256] / signal[320, 350]))
    assert contrast[1] / contrast[0] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("sigma", [0.4, 1.3, 9.0, 60.0])
def test_a_blur_keeps_the_sum_and_has_the_width_asked_for(sigma):
    offsets = (torch.arange(601) - 300.0).square()
    image = torch.exp(-(offsets[:, None] + offsets[None, :]) / (2.0 * 20.0**2))
    image /= image.sum()
    spread = blur(image, sigma)
    assert float(spread.sum()) == pytest.approx(1.0, rel=0.02)
    assert math.sqrt(float((spread.sum(0) * offsets).sum())) == pytest.approx(
        math.hypot(20.0, sigma), rel=0.05
    )


def test_a_ball_is_as_thick_as_its_chord_and_as_wide_as_its_magnified_diameter():
    corners = np.array([[s * 24.0, t * 24.0, u * 24.0] for s in (-1, 1) for t in (-1, 1) for u in (-1, 1)])
    slab = Slab.around(GEOMETRY, corners, 4, 3.0)
    assert slab is not None
    x, y, z = slab.lattice(GEOMETRY)
    image = torch.zeros(640, 512)
    slab.add_to(image, slab.length(sphere((x, y, z), (0.0, 0.0, 0.0), 22.0)))
    assert float(image.max()) == pytest.approx(44.0, abs=0.5)
    assert float(image[320, 256 + 20]) == pytest.approx(
        2.0 * math.sqrt(22.0**2 - (20.5 * 0.47 / GEOMETRY.magnification) ** 2), abs=0.6
    )
    width = int((image[320] > 0.5).sum()) * GEOMETRY.pitch_mm / GEOMETRY.magnification
    assert width == pytest.approx(44.0, abs=0.8)


def test_a_cut_takes_half_of_a_ball_sharply():
    corners = np.array([[s * 24.0, t * 24.0, u * 24.0] for s in (-1, 1) for t in (-1, 1) for u in (-1, 1)])
    slab = Slab.around(GEOMETRY, corners, 4, 3.0)
    assert slab is not None
    p = slab.lattice(GEOMETRY)
    image = torch.zeros(640, 512)
    slab.add_to(image, slab.length(sphere(p, (0.0, 0.0, 0.0), 22.0), p[0] + 0.0 * p[1]))
    row = image[320]
    assert float(row[252]) > 42.0
    assert float(row[259]) == 0.0


def test_distances_are_zero_on_the_surface_and_negative_inside():
    p = tuple(torch.tensor(v) for v in ([5.0, 0.0], [0.0, 0.0], [0.0, 0.0]))
    assert ellipsoid(p, (0.0, 0.0, 0.0), (5.0, 9.0, 7.0)).tolist()[0] == pytest.approx(0.0, abs=1e-3)
    assert ellipsoid(p, (0.0, 0.0, 0.0), (5.0, 9.0, 7.0)).tolist()[1] < -0.9
    assert capsule(p, (0.0, 0.0, 0.0), (10.0, 0.0, 0.0), 2.0, 4.0).tolist() == pytest.approx(
        [-3.0, -2.0], abs=1e-3
    )


def test_projection_and_plane_agree_there_and_back():
    x, y = GEOMETRY.plane(17.0)
    points = np.array([[float(x[0, 100]), float(y[400, 0]), 17.0]])
    assert GEOMETRY.project(points)[0] == pytest.approx([100.5, 400.5], abs=1e-3)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_head_diameter_and_neck_shaft_angle_are_recovered_from_the_picture(index):
    femur = draw_femur(stream(5, index, "femur"))
    straight = intact(femur, Leg(-femur.anteversion_deg, 0.0, 0.0))
    pattern = trabecular_map(femur, stream(5, index, "texture"))
    image = project_femur(straight, femur, pattern, GEOMETRY, 4)
    step = GEOMETRY.pitch_mm / GEOMETRY.magnification
    seen = (image.abs() > 1e-4).numpy()
    # the head's free medial half: from its centre to the edge, along directions away from the neck
    nx, ny = femur.neck_axis
    reach = []
    for turn in np.radians(np.arange(-60, 61, 10)):
        dx, dy = -(nx * math.cos(turn) - ny * math.sin(turn)), -(nx * math.sin(turn) + ny * math.cos(turn))
        r = 1
        while seen[round(320 - dy * r), round(256 + dx * r)]:
            r += 1
        reach.append(r * step)
    assert 2.0 * float(np.median(reach)) == pytest.approx(2.0 * femur.head_radius, abs=2.0)
    # the neck's middle line, from its upper and lower edges at two depths
    middles = []
    for along in (0.45 * femur.neck_length, 0.62 * femur.neck_length):
        edges = []
        for way in (1.0, -1.0):
            r = 0.0
            while seen[
                round(320 - (along * ny + way * nx * r) / step),
                round(256 + (along * nx - way * ny * r) / step),
            ]:
                r += 0.25
            edges.append(r * way)
        middles.append(sum(edges) / 2)
    assert max(abs(m) for m in middles) < 4.0


def test_the_cloud_of_a_femur_covers_it():
    femur = draw_femur(stream(5, 3, "femur"))
    cloud = bone_points(femur)
    assert cloud[:, 0].min() < -0.8 * femur.head_radius
    assert cloud[:, 1].max() > 0.7 * femur.head_radius


def test_a_truncated_normal_stays_inside_and_refuses_the_impossible():
    rng = np.random.default_rng(1)
    assert all(-1.0 <= truncated_normal(rng, 0.0, 5.0, -1.0, 1.0) <= 1.0 for _ in range(100))
    with pytest.raises(ValueError, match="never falls"):
        truncated_normal(rng, 0.0, 0.1, 50.0, 60.0)


def test_the_scintillators_mtf_falls_to_half_at_1_to_1_5_lp_per_mm():
    sigma_mm, pitch_mm = 0.15, 0.05  # the middle of what draw_exposure draws
    image = torch.zeros(400, 400)
    image[:, 200:] = 1.0
    line = torch.diff(blur(image, sigma_mm / pitch_mm)[200])
    modulation = np.abs(np.fft.rfft(line.numpy()))
    frequency = np.fft.rfftfreq(len(line), pitch_mm)
    half = frequency[np.argmax(modulation / modulation[0] < 0.5)]
    assert 1.0 <= half <= 1.5
