"""Films of the whole scene: same seed same pixels, truth where the fracture is, nothing else that tells the class."""

import hashlib
import json
from dataclasses import replace
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

torch = pytest.importorskip("torch")

from hipnode.evaluation.films.data import read_data  # noqa: E402
from hipnode.images import to_radiograph  # noqa: E402
from tests.dicom_checks import dciodvfy  # noqa: E402
from workers.phantom import DOMAIN_GAP  # noqa: E402
from workers.phantom.breaks import FractureOutcome, Leg, draw_break, draw_leg, intact  # noqa: E402
from workers.phantom.dataset import (  # noqa: E402
    MASKS,
    PoolError,
    PoolRequest,
    make_one,
    prepare_process,
    write_pool,
)
from workers.phantom.dicom import to_dicom  # noqa: E402
from workers.phantom.femur import draw_femur  # noqa: E402
from workers.phantom.film import HAIRLINE_SHARE, MIXES, generate, outcome_of  # noqa: E402
from workers.phantom.implants import add_implant, draw_implant, resected  # noqa: E402
from workers.phantom.labels import CLASS_NAMES, read_records, write_labels  # noqa: E402
from workers.phantom.layers import Layers  # noqa: E402
from workers.phantom.patient import Place, draw_patient  # noqa: E402
from workers.phantom.random import stream  # noqa: E402
from workers.phantom.rays import Geometry  # noqa: E402
from workers.phantom.scene import IMPLANT_SHARE, _implant_side  # noqa: E402

BROKEN = [o for o in FractureOutcome if o is not FractureOutcome.NONE]
COLUMNS = 256


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    prepare_process()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hips():
    prepare_process()
    return {outcome: generate(77, 3, outcome, COLUMNS) for outcome in FractureOutcome}


@pytest.fixture(scope="module")
def pelvis():
    return generate(77, 3, FractureOutcome.DF, COLUMNS, view="pelvis_ap")


def _digest(phantom):
    return hashlib.sha256(phantom.pixels.tobytes()).hexdigest()


def test_the_same_seed_gives_the_same_pixels_in_one_thread_and_in_two(hips):
    torch.set_num_threads(2)
    again = generate(77, 3, FractureOutcome.UF, COLUMNS)
    assert _digest(again) == _digest(hips[FractureOutcome.UF])
    assert again.record() == hips[FractureOutcome.UF].record()


def test_another_index_or_seed_gives_another_film(hips):
    others = {
        _digest(generate(77, 4, FractureOutcome.NONE, COLUMNS)),
        _digest(generate(78, 3, FractureOutcome.NONE, COLUMNS)),
    }
    assert len(others | {_digest(hips[FractureOutcome.NONE])}) == 3


def test_a_hip_film_is_upright_and_a_pelvis_film_lies(hips, pelvis):
    assert hips[FractureOutcome.NONE].pixels.shape == (320, 256)
    rows, columns = pelvis.pixels.shape
    assert columns == 256
    assert 0.75 < rows / columns < 0.90


def test_a_phantom_without_fracture_has_no_box_point_or_visibility(hips):
    plain = hips[FractureOutcome.NONE]
    assert plain.boxes.shape == (0, 4)
    assert plain.point is None
    assert plain.visibility == 0.0
    assert plain.ambiguous == ()


@pytest.mark.parametrize("outcome", BROKEN)
def test_a_fracture_has_one_box_that_holds_its_middle_and_the_changed_femur(hips, outcome):
    phantom, plain = hips[outcome], hips[FractureOutcome.NONE]
    rows, columns = phantom.pixels.shape
    left, top, right, bottom = phantom.boxes[0]
    assert 0 <= left < right <= columns
    assert 0 <= top < bottom <= rows
    assert phantom.point is not None
    assert left < phantom.point[0] < right
    assert top < phantom.point[1] < bottom
    change = np.abs(phantom.picture - plain.picture)
    inside = change[int(top) : int(bottom), int(left) : int(right)].mean()
    assert inside > 2.0 * np.median(change)


def test_the_margin_of_the_box_is_a_parameter_in_millimetres(hips):
    narrow = hips[FractureOutcome.VF]
    wide = generate(77, 3, FractureOutcome.VF, COLUMNS, box_margin_mm=13.0)
    step = 5.0 * narrow.magnification / narrow.pixel_mm
    assert narrow.boxes[0][0] - wide.boxes[0][0] == pytest.approx(step, abs=0.5)
    assert _digest(narrow) == _digest(wide)


@pytest.mark.parametrize("outcome", BROKEN)
def test_nothing_but_the_fracture_and_what_it_forces_depends_on_the_outcome(hips, outcome):
    plain, broken = hips[FractureOutcome.NONE].record(), hips[outcome].record()
    forced = {"fracture", "attempt", "vf_df_border", "tone"}  # tone: percentiles of the film
    alike = [{k: v for k, v in one["parameters"].items() if k not in forced} for one in (plain, broken)]
    assert alike[0] == alike[1]
    assert (plain["side"], plain["pixel_mm"]) == (broken["side"], broken["pixel_mm"])


def test_metal_is_as_frequent_with_a_fracture_as_without_and_never_in_the_broken_hip():
    def sides(outcome):
        return [_implant_side(stream(31, k, "implant"), "L", outcome) for k in range(2000)]

    plain, broken = sides(FractureOutcome.NONE), sides(FractureOutcome.DF)
    assert [s is None for s in plain] == [s is None for s in broken]
    assert np.mean([s is not None for s in plain]) == pytest.approx(IMPLANT_SHARE, abs=0.03)
    assert set(broken) == {None, "R"}
    assert plain.count("L") == pytest.approx(plain.count("R"), rel=0.2)


@pytest.mark.parametrize("kind", ["total prosthesis", "half prosthesis", "nail", "plate and screw", "screws"])
def test_each_kind_of_implant_is_drawn_and_puts_metal_into_the_hip(kind):
    femur = draw_femur(stream(5, 0, "femur"), draw_patient(stream(5, 0, "patient")))
    drawn = [draw_implant(stream(5, k, "metal"), femur) for k in range(60)]
    implant = next(d for d in drawn if d.name == kind)
    whole = intact(femur, Leg(0.0, 0.0, 0.0))
    geometry = Geometry(1150.0, 125.0, 0.94, 320, 256, (20.0, -30.0), (128.0, 160.0))
    layers = Layers.empty(geometry)
    metal = add_implant(layers, geometry, implant, whole.pieces[0], Place(1, np.zeros(3), np.eye(3)))
    assert 0.005 < float((metal > 0.5).float().mean()) < 0.25
    assert float(layers[implant.material].sum()) == pytest.approx(float(metal.sum()))
    kept = resected(whole, femur, implant)
    assert len(kept.pieces) == (2 if "prosthesis" in kind else 1)


def test_both_views_are_films_of_one_scene(hips, pelvis):
    hip = hips[FractureOutcome.DF].record()["parameters"]
    wide = pelvis.record()["parameters"]
    for part in ("patient", "hips", "body", "exposure", "look", "fracture"):
        assert hip[part] == wide[part]
    assert set(pelvis.hip_boxes) == {"L", "R"}
    assert set(hips[FractureOutcome.DF].hip_boxes) == {hips[FractureOutcome.DF].side}


def test_the_patients_left_is_at_the_right_of_a_pelvis_film(pelvis):
    left, right = pelvis.key_points["L"], pelvis.key_points["R"]
    assert left["head_centre"][0] > right["head_centre"][0]
    assert left["greater_tip"][0] > left["head_centre"][0]
    assert right["greater_tip"][0] < right["head_centre"][0]
    box = pelvis.hip_boxes[pelvis.side]
    assert box[0] < pelvis.boxes[0][2]
    assert box[2] > pelvis.boxes[0][0]


def test_masks_lie_where_the_key_points_are(pelvis):
    for side in ("L", "R"):
        column, row = pelvis.key_points[side]["head_centre"]
        assert pelvis.masks[f"femur_{side}"][int(row), int(column)]
        assert not pelvis.masks[f"femur_{side}"][:, 0].any() or side == "R"
        assert 0.02 < pelvis.masks[f"hip_bone_{side}"].mean() < 0.25


def test_the_same_film_can_be_had_at_twice_the_resolution(hips):
    fine = generate(77, 3, FractureOutcome.DF, 2 * COLUMNS)
    assert fine.pixels.shape == (640, 512)
    assert fine.boxes[0] / 2 == pytest.approx(hips[FractureOutcome.DF].boxes[0], abs=1.0)
    shrunk = fine.picture.reshape(320, 2, 256, 2).mean((1, 3))
    assert np.corrcoef(shrunk.ravel(), hips[FractureOutcome.DF].picture.ravel())[0, 1] > 0.97


def test_one_energy_and_a_spectrum_give_nearly_the_same_film(hips):
    mono = generate(77, 3, FractureOutcome.NONE, COLUMNS, mono=True)
    plain = hips[FractureOutcome.NONE]
    assert _digest(mono) != _digest(plain)
    assert np.corrcoef(mono.picture.ravel(), plain.picture.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("mix", sorted(MIXES))
def test_outcomes_come_in_the_mix_asked_for(mix):
    drawn = [outcome_of(5, index, mix).value for index in range(3000)]
    assert sum(MIXES[mix].values()) == pytest.approx(1.0)
    for name, share in MIXES[mix].items():
        assert drawn.count(name) / 3000 == pytest.approx(share, abs=0.03)


def test_30_percent_of_unbroken_legs_lie_more_than_25_degrees_outside_each_by_itself():
    legs = {s: [draw_leg(stream(5, k, f"leg {s}")).external_rotation for k in range(2000)] for s in "LR"}
    for turns in legs.values():
        assert np.mean(np.array(turns) > 25.0) == pytest.approx(0.30, abs=0.04)
    assert abs(np.corrcoef(legs["L"], legs["R"])[0, 1]) < 0.08


def test_age_thins_the_cortex_and_sex_moves_the_lengths():
    patients = [draw_patient(stream(9, k, "patient")) for k in range(600)]
    femurs = [draw_femur(stream(9, k, "femur"), p) for k, p in enumerate(patients)]
    ages = np.array([p.age_years for p in patients])
    assert np.corrcoef(ages, [f.cortex_superior for f in femurs])[0, 1] < -0.5
    assert np.corrcoef(ages, [f.bvf_head for f in femurs])[0, 1] < -0.15
    women = [2 * f.head_radius for f, p in zip(femurs, patients, strict=True) if p.female]
    men = [2 * f.head_radius for f, p in zip(femurs, patients, strict=True) if not p.female]
    assert 41.0 < np.mean(women) < 45.0  # 41.9 to 44 mm, bone
    assert 46.0 < np.mean(men) < 50.0  # 46.9 to 49 mm
    assert 120.0 < np.median([f.neck_shaft_angle_deg for f in femurs]) < 127.0
    assert 10.0 < np.median([f.anteversion_deg for f in femurs]) < 18.0


def test_some_valgus_and_displaced_fractures_lie_near_the_border_and_some_are_hairlines():
    patient = draw_patient(stream(5, 0, "patient"))
    femur, leg = draw_femur(stream(5, 0, "femur"), patient), draw_leg(stream(5, 0, "leg L"))
    for outcome in (FractureOutcome.VF, FractureOutcome.DF):
        broken = [draw_break(stream(6, k, "f"), femur, leg, outcome) for k in range(400)]
        border = [b for b in broken if "border" in b.subtype]
        assert 0.04 < len(border) / 400 < 0.13
        assert all(b.border_margin is not None and b.border_margin < 0.7 for b in border)
    hairlines = [stream(5, k, "hairline").random() < HAIRLINE_SHARE for k in range(2000)]
    assert np.mean(hairlines) == pytest.approx(HAIRLINE_SHARE, abs=0.02)


def test_a_pool_of_pelves_has_masks_in_bits_and_records_of_both_sides(tmp_path):
    request = PoolRequest(
        tmp_path, 1, 901, columns=192, view="pelvis_ap", outcome=FractureOutcome.SF, masks=True
    )
    assert write_pool(request, workers=1) == 1
    (record,) = read_records(tmp_path)
    assert (record["view"], record["class"], len(record["boxes"])) == ("pelvis_ap", "SF", 1)
    packed = np.asarray(Image.open(tmp_path / "0901-000000.masks.png"))
    for side in ("L", "R"):
        column, row = record["key_points_by_side"][side]["teardrop"]
        assert packed[int(row), int(column)] & (1 << MASKS.index(f"hip_bone_{side}"))


def test_a_pelvis_film_is_judged_as_a_whole_film(tmp_path):
    request = PoolRequest(tmp_path, 2, 902, dicom=True, columns=192, view="pelvis_ap", split="test")
    records = [
        make_one(replace(request, outcome=FractureOutcome(c)), k) for k, c in enumerate(("DF", "none"))
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    labels = read_data(tmp_path, CLASS_NAMES).labels
    assert [(label.hip, label.classes, label.split) for label in labels] == [
        (None, ("DF",), "test"), (None, (), "test")
    ]  # fmt: skip
    assert [[list(box.corners) for box in label.boxes] for label in labels] == [r["boxes"] for r in records]
    assert [label.size for label in labels] == [(r["rows"], r["columns"]) for r in records]


def test_difficulty_does_not_depend_on_resolution(tmp_path):
    made = [
        make_one(PoolRequest(tmp_path, 1, 903, outcome=FractureOutcome.VF, columns=columns), index)
        for columns in (192, 384)
        for index in range(3)
    ]
    assert [record["difficulty"] for record in made[:3]] == [record["difficulty"] for record in made[3:]]
    assert made[0]["visibility"] > 1.5 * made[3]["visibility"]


@pytest.fixture
def pool(tmp_path):
    boxes = [[10.0, 20.0, 50.0, 60.0]]
    records = [
        {"file": "a.png", "class": "DF", "boxes": boxes, "rows": 100, "columns": 200, "ambiguous": ["VF/DF"]},
        {"file": "b.png", "class": "none", "boxes": [], "rows": 100, "columns": 200},
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return tmp_path


def test_coco_labels_hold_pictures_without_fracture_too(pool):
    (path,) = write_labels(pool, "coco")
    whole = json.loads(path.read_text())
    assert [i["file_name"] for i in whole["images"]] == ["a.png", "b.png"]
    (annotation,) = whole["annotations"]
    assert annotation["bbox"] == [10.0, 20.0, 40.0, 40.0]
    assert whole["categories"][annotation["category_id"] - 1]["name"] == "DF"
    assert DOMAIN_GAP in whole["info"]["description"]


def test_yolo_labels_are_shares_of_the_picture_and_empty_without_fracture(pool):
    write_labels(pool, "yolo")
    assert (pool / "a.txt").read_text() == f"{CLASS_NAMES.index('DF')} 0.150000 0.400000 0.200000 0.400000\n"
    assert (pool / "b.txt").read_text() == ""
    assert (pool / "classes.txt").read_text().split() == list(CLASS_NAMES)


def test_voc_labels_count_pixels_from_one_as_labelimg_does(pool):
    write_labels(pool, "voc")
    box = ElementTree.parse(pool / "a.xml").getroot().find("object/bndbox")  # noqa: S314  (our own file)
    assert box is not None
    assert [box.findtext(k) for k in ("xmin", "ymin", "xmax", "ymax")] == ["11", "21", "50", "60"]
    assert ElementTree.parse(pool / "b.xml").getroot().find("object") is None  # noqa: S314


def test_labels_of_a_folder_that_is_no_pool_are_refused_with_file_and_line(tmp_path):
    with pytest.raises(PoolError, match=r"holds no labels\.jsonl"):
        write_labels(tmp_path, "coco")
    (tmp_path / "labels.jsonl").write_text('{"file": "a.png"}\n')
    with pytest.raises(PoolError, match=r"labels\.jsonl:1"):
        write_labels(tmp_path, "voc")


@pytest.mark.parametrize("view", ["hip_ap", "pelvis_ap"])
def test_a_film_as_dicom_is_valid_and_is_the_film_it_was_made_from(view, tmp_path):
    phantom = generate(55, 2, None, COLUMNS, view=view)
    path = tmp_path / "film.dcm"
    to_dicom(phantom).save_as(path, enforce_file_format=True)
    assert [line for line in dciodvfy(path) if line.startswith("Error")] == []
    ds = dcmread(BytesIO(path.read_bytes()))
    radiograph = to_radiograph(ds, ds.pixel_array)
    assert np.abs(radiograph.pixels.astype(int) - phantom.pixels.astype(int)).max() <= 1
    assert ds.BodyPartExamined == {"hip_ap": "HIP", "pelvis_ap": "PELVIS"}[view]
    assert ds.ImageLaterality == {"hip_ap": phantom.side, "pelvis_ap": "B"}[view]
    assert "synthetic" in ds.StudyDescription.lower()
