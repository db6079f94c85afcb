"""The checks a phantom passes before use: attenuation, geometry, noise, realism, and no leak of the class."""

import math
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from workers.phantom import DOMAIN_GAP  # noqa: E402
from workers.phantom.beam import (  # noqa: E402
    ENERGIES,
    TABLE,
    Exposure,
    attenuation,
    expose,
    mono_beam,
    poly_beam,
    spectrum,
    transmit,
)
from workers.phantom.bones import Shaft, add_femur  # noqa: E402
from workers.phantom.breaks import FractureOutcome, Leg, intact  # noqa: E402
from workers.phantom.dataset import prepare_process  # noqa: E402
from workers.phantom.femur import draw_femur  # noqa: E402
from workers.phantom.fields import sphere  # noqa: E402
from workers.phantom.film import generate  # noqa: E402
from workers.phantom.filters import blur  # noqa: E402
from workers.phantom.implants import Rod, Shell, _add_rod, _add_shell  # noqa: E402
from workers.phantom.layers import MATERIALS, Layers  # noqa: E402
from workers.phantom.patient import Place, draw_patient  # noqa: E402
from workers.phantom.random import stream  # noqa: E402
from workers.phantom.rays import Geometry, Slab  # noqa: E402
from workers.phantom.realism import FILMS, as_markdown, compare, smooth, statistics_of  # noqa: E402
from workers.phantom.trabeculae import trabecular_map  # noqa: E402

GEOMETRY = Geometry(1150.0, 125.0, 0.47, 640, 512, (0.0, 0.0), (256.0, 320.0))
CLEAN = Exposure(0.0, 60.0, 1e12, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    prepare_process()
    yield
    torch.set_num_threads(threads)


def _layers(**mm: float) -> torch.Tensor:
    out = torch.zeros(len(MATERIALS), 4, 4)
    for name, value in mm.items():
        out[MATERIALS.index(name)] = value
    return out


@pytest.mark.parametrize("material", ["cortical", "muscle", "fat", "marrow"])
@pytest.mark.parametrize("energy", [50.0, 55.0, 60.0])
def test_each_tissue_passes_as_beer_lambert_says_at_one_energy(material, energy):
    passed = float(transmit(_layers(**{material: 200.0}), mono_beam(energy))[0, 0])
    assert passed == pytest.approx(math.exp(-20.0 * attenuation(material, energy)), rel=0.001)


def test_20_cm_of_water_and_a_10_mm_cortical_wedge_pass_as_the_tables_say():
    # the tables' own values at 50 and 60 keV, 1/cm
    assert math.exp(-20.0 * attenuation("water", 60.0)) == pytest.approx(math.exp(-20.0 * 0.206), rel=0.01)
    for mm in range(1, 11):
        passed = float(transmit(_layers(cortical=float(mm)), mono_beam(60.0))[0, 0])
        assert passed == pytest.approx(math.exp(-mm / 10.0 * 0.604), rel=0.01)
        passed = float(transmit(_layers(cortical=float(mm)), mono_beam(50.0))[0, 0])
        assert passed == pytest.approx(math.exp(-mm / 10.0 * 0.815), rel=0.01)


@pytest.mark.parametrize(
    ("kvp", "filter_mm", "mean_kev", "behind_kev"),
    [(70.0, 2.5, 39.4, 50.6), (75.0, 2.5, 41.2, 53.0), (80.0, 3.0, 43.8, 55.5), (85.0, 3.0, 45.6, 57.7)],
)
def test_spectra_have_the_mean_energies_of_spekpy_in_air_and_behind_20_cm_of_water(
    kvp, filter_mm, mean_kev, behind_kev
):
    energy, share = spectrum(kvp, filter_mm)
    assert share.sum() == pytest.approx(1.0)
    assert float((energy * share).sum()) == pytest.approx(mean_kev, abs=0.8)
    behind = share * np.exp(-20.0 * np.array([attenuation("water", max(e, 20.0)) for e in energy]))
    assert float((energy * behind).sum() / behind.sum()) == pytest.approx(behind_kev, abs=0.8)


def test_bins_pass_soft_tissue_and_bone_as_the_full_spectrum_does():
    energy, photons = spectrum(80.0, 3.0)
    detected = photons * energy * (1.0 - np.exp(-0.5 * 2.2 * (60.0 / energy) ** 2.7))
    mu = {m: np.array([attenuation(m, max(e, 20.0)) for e in energy]) for m in ("muscle", "cortical")}
    beam = poly_beam(80.0, 3.0)
    for cortical in (0.0, 5.0, 12.0):
        full = [
            float((detected * np.exp(-d * mu["muscle"] - 0.1 * cortical * mu["cortical"])).sum())
            for d in (15.0, 20.0)
        ]
        binned = [
            float(transmit(_layers(muscle=10.0 * d, cortical=cortical), beam)[0, 0]) for d in (15.0, 20.0)
        ]
        assert binned[1] / binned[0] == pytest.approx(full[1] / full[0], rel=0.03)


def test_attenuation_falls_with_energy_and_cortex_stands_over_muscle_over_fat():
    for values in TABLE.values():
        assert len(values) == len(ENERGIES)
        assert all(a > b for a, b in pairwise(values))
    for energy in ENERGIES:
        assert attenuation("cortical", energy) > attenuation("muscle", energy) > attenuation("fat", energy)
    assert attenuation("titanium", 60.0) == pytest.approx(3.28)
    assert attenuation("steel", 60.0) == pytest.approx(11.6)


def test_noise_variance_falls_with_dose_at_slope_one_and_is_poissons():
    doses = np.array([200.0, 800.0, 3200.0])
    variances = []
    for dose in doses:
        exposure = Exposure(0.0, 60.0, dose, 0.0, 0.0, 0.0, 1.0)
        signal, _ = expose(torch.ones(400, 400), GEOMETRY, exposure, np.random.default_rng(3))
        variances.append(float(signal.var()))
    slope = np.polyfit(np.log(doses), np.log(variances), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.03)
    assert variances[0] == pytest.approx(1.0 / (doses[0] * (0.47 / 0.143) ** 2), rel=0.03)


def test_quantum_noise_is_blurred_with_the_mtf_and_half_of_it_passes_at_1_to_1_5_lp_per_mm():
    fine = Geometry(1150.0, 125.0, 0.05, 400, 400, (0.0, 0.0), (200.0, 200.0))
    exposure = Exposure(0.0, 60.0, 1e4, 0.0, 0.15, 0.0, 0.0)
    signal, _ = expose(torch.ones(400, 400), fine, exposure, np.random.default_rng(3))
    rows = np.abs(np.fft.rfft(signal.numpy() - 1.0, axis=1)) ** 2
    power = rows.mean(0).reshape(-1)[1:].reshape(20, 10).mean(1)
    assert power[-1] < 0.05 * power[0]
    edge = torch.zeros(400, 400)
    edge[:, 200:] = 1.0
    line = torch.diff(blur(edge, 0.15 / 0.05)[200])
    modulation = np.abs(np.fft.rfft(line.numpy()))
    frequency = np.fft.rfftfreq(len(line), 0.05)
    assert 1.0 <= frequency[np.argmax(modulation / modulation[0] < 0.5)] <= 1.5


def test_scatter_lowers_contrast_by_one_over_one_plus_its_ratio():
    primary = torch.ones(640, 512)
    primary[310:330, 246:266] = 0.82
    contrast = []
    for ratio in (0.0, 1.0):
        exposure = Exposure(ratio, 60.0, 1e12, 0.0, 0.0, 0.0, 0.0)
        signal, _ = expose(primary, GEOMETRY, exposure, np.random.default_rng(1))
        contrast.append(1.0 - float(signal[320, 256] / signal[320, 350]))
    assert contrast[1] / contrast[0] == pytest.approx(0.5, abs=0.03)


def _ball_slab() -> Slab:
    corners = np.array([[s * 24.0, t * 24.0, u * 24.0] for s in (-1, 1) for t in (-1, 1) for u in (-1, 1)])
    slab = Slab.around(GEOMETRY, corners, 1.7, 3.0)
    assert slab is not None
    return slab


def test_a_ball_is_as_thick_as_its_chord_and_as_wide_as_its_magnified_diameter():
    slab = _ball_slab()
    image = torch.zeros(640, 512)
    slab.add_to(image, slab.length(sphere(slab.lattice(GEOMETRY), (0.0, 0.0, 0.0), 22.0)))
    assert float(image.max()) == pytest.approx(44.0, abs=0.5)
    width = int((image[320] > 0.5).sum()) * GEOMETRY.pitch_mm / GEOMETRY.magnification
    assert width == pytest.approx(44.0, abs=0.8)


def test_a_plate_thinner_than_the_lattice_keeps_its_thickness():
    slab = _ball_slab()
    x, y, z = slab.lattice(GEOMETRY)
    tilt = z - 0.4 * x + 0.0 * y
    thin = slab.length(tilt - 0.6, -tilt - 0.6)
    middle = thin[thin.shape[0] // 2, thin.shape[1] // 4 : 3 * thin.shape[1] // 4]
    assert float(middle.min()) == pytest.approx(1.2, abs=0.05)
    assert float(middle.max()) == pytest.approx(1.2, abs=0.05)


def test_a_slabs_pixels_lie_where_the_geometry_says():
    slab = _ball_slab()
    x, y = slab.plane(GEOMETRY, 17.0)
    points = np.array([[float(x[0, 10]), float(y[20, 0]), 17.0]])
    assert GEOMETRY.project(points)[0] == pytest.approx([slab.column + 10.5, slab.row + 20.5], abs=1e-3)


def test_metal_rods_and_balls_have_their_chords():
    metal = torch.zeros(640, 512)
    _add_rod(
        metal, GEOMETRY, np.array([[-30.0, 0.0, 0.0], [30.0, 0.0, 0.0]]), Rod((0, 0, 0), (0, 0, 0), 5.0, 5.0)
    )
    assert float(metal[320, 256]) == pytest.approx(10.0, abs=0.2)
    assert float(metal[320 + 14, 256]) == 0.0
    metal.zero_()
    _add_shell(metal, GEOMETRY, np.zeros(3), Shell((0, 0, 0), 20.0, 16.0), None)
    assert float(metal[320, 256]) == pytest.approx(8.0, abs=0.2)
    metal.zero_()
    _add_shell(metal, GEOMETRY, np.zeros(3), Shell((0, 0, 0), 20.0, 16.0), np.array([0.6, -0.8, 0.0]))
    assert float(metal[320 + 20, 256 - 0]) < float(metal[320 - 20, 256])  # open below, on the patient's left


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("side", [1, -1])
def test_head_diameter_neck_axis_and_magnification_are_recovered_from_the_picture(index, side):
    patient = draw_patient(stream(5, index, "patient"))
    femur = draw_femur(stream(5, index, "femur"), patient)
    straight = intact(femur, Leg(-femur.anteversion_deg, 0.0, 0.0))
    pattern = trabecular_map(femur, stream(5, index, "texture"))
    shaft = Shaft(femur, pattern, Place(side, np.zeros(3), np.eye(3)), straight)
    seen = (add_femur(Layers.empty(GEOMETRY), GEOMETRY, shaft) > 0.05).numpy()
    if side < 0:
        seen = np.roll(seen[:, ::-1], 0, axis=1)
    step = GEOMETRY.pitch_mm / GEOMETRY.magnification
    nx, ny = femur.neck_axis
    reach = []
    for turn in np.radians(np.arange(-60, 61, 10)):
        dx, dy = -(nx * math.cos(turn) - ny * math.sin(turn)), -(nx * math.sin(turn) + ny * math.cos(turn))
        r = 1.0
        while seen[round(319.5 - dy * r), round(255.5 + dx * r)]:
            r += 0.5
        reach.append(r * step)
    assert 2.0 * float(np.median(reach)) == pytest.approx(2.0 * femur.head_radius, abs=2.0)
    # neck-shaft angle as it is read off films: head centre to the middle of the narrowest neck, against the shaft
    along, edges = 0.46 * femur.neck_length, []
    for way in (1.0, -1.0):
        r = 0.0
        while seen[
            round(319.5 - (along * ny + way * nx * r) / step),
            round(255.5 + (along * nx - way * ny * r) / step),
        ]:
            r += 0.25
        edges.append(r * way)
    neck = math.degrees(math.atan2(sum(edges) / 2, along))
    centres = []
    for y in (-95.0, -125.0):
        inside = np.flatnonzero(seen[round(319.5 - y / step)])
        centres.append(float(inside.mean()) * step)
    shaft_lean = math.degrees(math.atan2(centres[1] - centres[0], 30.0))
    assert abs(neck) + abs(shaft_lean) < 3.5
    assert neck == pytest.approx(0.0, abs=2.0)


@pytest.fixture(scope="module")
def pairs():
    """Films of the same scenes with and without a displaced fracture, small: (plain, broken, hidden) of each."""
    prepare_process()
    out = []
    for index in range(20):
        plain = generate(64, index, FractureOutcome.NONE, 128)
        broken = generate(64, index, FractureOutcome.DF, 128)
        bone = plain.masks[f"femur_{plain.side}"] | broken.masks[f"femur_{plain.side}"]
        hidden = smooth(bone.astype(float), 2.5) > 0.02
        for left, top, right, bottom in broken.boxes:
            hidden[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = True
        out.append((plain, broken, hidden))
    return out


def _features(picture, at, side):
    """Grey and edge energy of a hip crop on an 8 x 8 grid, free of brightness."""
    column, row = (int(v) for v in at)
    wide = np.pad(picture, 48, mode="edge")
    crop = wide[row + 48 - 30 : row + 48 + 34, column + 48 - 32 : column + 48 + 32]
    crop = crop if side == "L" else crop[:, ::-1]
    gy, gx = np.gradient(crop)
    parts = [p.reshape(8, 8, 8, 8).mean((1, 3)).ravel() for p in (crop, np.hypot(gx, gy))]
    return np.concatenate([(p - p.mean()) / (p.std() + 1e-6) for p in parts])


def _auc(pairs, view):
    """Area under the curve of a ridge classifier that never saw the scene it judges."""
    x = np.array([_features(view(p, hidden), plain.key_points[plain.side]["head_centre"], plain.side)
                  for plain, broken, hidden in pairs for p in (plain, broken)])  # fmt: skip
    y = np.tile([-1.0, 1.0], len(pairs))
    scores = np.zeros(len(y))
    for k in range(len(pairs)):
        train = np.arange(len(y)) // 2 != k
        mean = x[train].mean(0)
        a = x[train] - mean
        weights = a.T @ np.linalg.solve(a @ a.T + 60.0 * np.eye(len(a)), y[train])
        scores[2 * k : 2 * k + 2] = (x[2 * k : 2 * k + 2] - mean) @ weights
    wins = scores[1::2][:, None] - scores[0::2][None, :]
    return float((wins > 1e-9).mean() + 0.5 * (np.abs(wins) <= 1e-9).mean())


def test_a_small_classifier_sees_the_fracture_and_nothing_once_the_femur_is_hidden(pairs):
    seen = _auc(pairs, lambda p, hidden: p.picture)
    masked = _auc(pairs, lambda p, hidden: np.where(hidden, 0.4, p.picture))
    assert 0.65 < seen < 0.999
    assert 0.3 < masked < 0.7


def test_outside_the_femur_the_film_is_the_same_with_and_without_fracture(pairs):
    for plain, broken, hidden in pairs[:8]:
        free = ~hidden
        # tone follows the film's percentiles, as on a real system, so a little remains
        assert float(np.median(np.abs(plain.picture - broken.picture)[free])) < 0.03


def test_statistics_of_a_known_picture_are_what_was_put_in():
    rng = np.random.default_rng(2)
    ramp = np.linspace(0.2, 0.7, 512)[None, :].repeat(400, 0)
    found = statistics_of(ramp + rng.normal(0.0, 0.02, ramp.shape))
    assert found["noise SD"] == pytest.approx(0.02, rel=0.05)
    assert found["body p50"] == pytest.approx(0.45, abs=0.02)
    assert found["slope 0.30-0.48"] == pytest.approx(0.0, abs=0.15)
    assert set(found) == set(FILMS)


def test_phantoms_cover_most_statistics_of_the_films_and_the_table_says_which_not():
    rows = [
        statistics_of(generate(41, k, None, 1024, view="pelvis_ap").picture.astype(float)) for k in range(2)
    ]
    lines = compare(rows)
    assert [c.name for c in lines] == list(FILMS)
    near = [c for c in lines if abs(c.phantom[0] - c.film[0]) < 2.0 * (c.film[2] - c.film[1]) + 1e-3]
    assert len(near) >= 0.8 * len(lines)
    shifted = [{name: value + 100.0 for name, value in row.items()} for row in rows]
    assert {c.verdict for c in compare(shifted)} == {"red"}
    assert as_markdown(lines).count("\n") == len(lines) + 1
    assert "clinical accuracy" in DOMAIN_GAP
