"""Malformed, hostile and huge files cost a child process at most, and each ends with a reason."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from hipnode.children import STOPPING, Children
from hipnode.errors import ImageRejected
from hipnode.images import Radiograph, to_radiograph
from hipnode.selection import Facts, Selection, explain
from hipnode.status import ReasonCode
from tests.factories import encode_frame, encoded, make_radiograph, save
from tests.peers import wait_for

GIB = 2**30


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children(max_workers=2, time_limit_s=30, memory_limit_bytes=GIB, max_pixels=64 * 10**6) as pool:
        yield pool


def code_of(children: Children, path: Path) -> ReasonCode:
    with pytest.raises(ImageRejected) as caught:
        children.read_radiograph(path)
    return caught.value.code


# Good files


def test_a_film_comes_back_as_it_would_be_read_here(children: Children, tmp_path: Path) -> None:
    ds = make_radiograph(transfer_syntax=JPEGLosslessSV1)
    radiograph = children.read_radiograph(save(ds, tmp_path / "film.dcm"))
    plain = make_radiograph()
    assert np.array_equal(radiograph.pixels, to_radiograph(plain, plain.pixel_array).pixels)
    assert radiograph.sop_instance_uid == ds.SOPInstanceUID


def test_many_films_come_in_order_with_rejections_in_their_place(children: Children, tmp_path: Path) -> None:
    paths = [save(make_radiograph(seed=i), tmp_path / f"{i}.dcm") for i in range(4)]
    paths.insert(2, tmp_path / "absent.dcm")
    answers = children.read_radiographs(paths)
    uids = [a.sop_instance_uid for a in answers if isinstance(a, Radiograph)]
    assert uids == [make_radiograph(seed=i).SOPInstanceUID for i in range(4)]
    assert isinstance(answers[2], ImageRejected)
    assert children.read_radiographs([]) == []


def test_facts_need_the_header_alone(children: Children, tmp_path: Path) -> None:
    ds = make_radiograph(PixelData=b"\0\0")
    facts = children.read_facts(save(ds, tmp_path / "film.dcm"))
    assert facts.first("BodyPartExamined") == "HIP"
    assert facts.sop_instance_uid == ds.SOPInstanceUID


def test_a_file_without_preamble_is_read(children: Children, tmp_path: Path) -> None:
    ds = make_radiograph(transfer_syntax="1.2.840.10008.1.2")
    (tmp_path / "bare").write_bytes(encoded(ds))
    assert children.read_facts(tmp_path / "bare").first("Modality") == "DX"
    assert children.read_radiograph(tmp_path / "bare").pixels.shape == (640, 512)


# Limits


def test_a_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    with Children(1, time_limit_s=0.5, memory_limit_bytes=GIB, max_pixels=10**6) as pool:
        pid = pool.call(os.getpid)
        with pytest.raises(ImageRejected) as caught:
            pool.call(time.sleep, 60)
        assert caught.value.code == ReasonCode.DECODE_LIMIT
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the slow child")
        assert pool.call(int, "7") == 7, "the next task meets a fresh child"


def test_a_child_that_crashes_costs_its_task_alone(children: Children) -> None:
    with pytest.raises(ImageRejected) as caught:
        children.call(os.abort)
    assert caught.value.code == ReasonCode.DECODE_FAILED
    assert children.call(int, "7") == 7


def test_a_child_killed_from_outside_costs_its_task_alone() -> None:
    with Children(1, time_limit_s=30, memory_limit_bytes=GIB, max_pixels=10**6) as pool:
        killer = threading.Timer(0.5, os.kill, (pool.call(os.getpid), signal.SIGKILL))
        killer.start()
        with pytest.raises(ImageRejected) as caught:
            pool.call(time.sleep, 25)
        killer.join()
        assert caught.value.code == ReasonCode.DECODE_FAILED
        assert pool.call(int, "7") == 7


def test_memory_has_a_limit(children: Children) -> None:
    with pytest.raises(ImageRejected) as caught:
        children.call(bytearray, 2 * GIB)
    assert caught.value.code == ReasonCode.DECODE_LIMIT


def test_pixels_have_a_limit(tmp_path: Path) -> None:
    path = save(make_radiograph(), tmp_path / "film.dcm")
    with Children(1, 30, GIB, max_pixels=1000) as pool:
        assert code_of(pool, path) == ReasonCode.DECODE_LIMIT


def test_children_import_no_torch_and_leave_no_core(children: Children) -> None:
    assert children.call(eval, "'torch' in __import__('sys').modules") is False
    assert children.call(eval, "__import__('resource').getrlimit(4)") == (0, 0)


def test_a_closed_pool_rejects() -> None:
    pool = Children(1, 5, GIB, 10**6)
    assert pool.call(int, "7") == 7
    pool.close()
    pool.close()
    with pytest.raises(ImageRejected):
        pool.call(int, "7")


PARENT = """
import os, time
from hipnode.children import Children
if __name__ == "__main__":
    pool = Children(2, 60, 2**30, 10**6)
    print(pool.call(os.getpid), flush=True)
    time.sleep(60)
"""


def test_a_task_under_way_ends_when_the_pool_is_closed() -> None:
    with Children(1, time_limit_s=600, memory_limit_bytes=GIB, max_pixels=10**6) as pool:
        assert pool.call(int, "7") == 7
        said, asking = asked(pool)
        time.sleep(0.2)  # a child has taken it up, or not: either way it ends
    asking.join(20)
    assert not asking.is_alive()
    assert said == [STOPPING]


def test_a_task_that_a_stopped_pool_forgot_ends_too() -> None:
    class Forgetful:
        """A pool that is stopped while it takes a task: pebble's then never answers."""

        active = True

        def __init__(self) -> None:
            self.asked = threading.Event()

        def schedule(self, *_: Any, **__: Any) -> "Future[Any]":
            self.asked.set()
            return Future()

        def stop(self) -> None:
            """Nothing."""

        join = stop

    pool = Children(1, time_limit_s=600, memory_limit_bytes=GIB, max_pixels=10**6)
    forgetful = Forgetful()
    pool._pool = forgetful  # type: ignore[assignment]
    said, asking = asked(pool)
    assert forgetful.asked.wait(20)
    assert not said
    pool.close()
    asking.join(20)
    assert not asking.is_alive()
    assert said == [STOPPING]


def asked(pool: Children) -> tuple[list[str], threading.Thread]:
    """A thread that asks for something that takes long, and the sentence it is refused with."""
    said: list[str] = []

    def ask() -> None:
        with pytest.raises(ImageRejected) as refused:
            pool.call(time.sleep, 600)
        said.append(refused.value.sentence)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    return said, asking


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, cwd=Path.cwd()
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    siblings = [p for p in Path("/proc").glob("[0-9]*") if _parent_of(p) == parent.pid]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not any(_alive(p) for p in siblings), "the end of the orphans", timeout_s=10)


def _parent_of(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def _alive(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


# Hostile files: each ends with a reason, the pool alive


#: The beginning of a sequence and of its item, both of undefined length.
NESTED = b"\x08\x00\x18\x22SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"


def bomb_of(syntax: str, at: int, size: bytes) -> bytes:
    frame = bytearray(encode_frame(make_radiograph(Rows=64, Columns=64).pixel_array, syntax, 12))
    frame[at : at + len(size)] = size
    return encapsulate([bytes(frame)])


def hostile_files(folder: Path) -> dict[str, Path]:
    """Files of RELIABILITY's list, by name. Header and pixels of each are hurt in one way."""
    film = save(make_radiograph(), folder / "film.dcm").read_bytes()
    start = film.index(b"\xe0\x7f\x10\x00OW")
    made: dict[str, bytes] = {
        "empty": b"",
        "text": b"import this\n" * 100,
        "elf": b"\x7fELF" + film[4:],
        "preamble only": film[:132],
        "cut in the meta": film[:200],
        "cut in the header": film[:700],
        "cut before the pixels": film[:start],
        "cut in the pixels": film[: start + 5000],
        "pixel length 4 GiB": film[: start + 8] + struct.pack("<L", 0xFFFFFFF0) + film[start + 12 :],
        "undefined length": film[: start + 8] + b"\xff\xff\xff\xff" + film[start + 12 :],
        "meta length lies": film[:140] + b"\xff\xff\xff\x7f" + film[144:],
        "300 nested": film[:start] + NESTED * 300 + film[start:],
        "30,000 nested": film[:start] + NESTED * 30_000 + film[start:],
        "a VR nobody knows": film.replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00ZZ"),
    }
    rle = b"\x02\0\0\0" + b"\x40\0\0\0" * 15 + b"\x81\0" * 9
    jpeg = b"\xff\xd8\xff\xc3\0\x0b\x10\xff\xff\xff\xff\x01\x01\x11\0"
    sets: dict[str, Dataset] = {
        "rows 0": _with(make_radiograph(), Rows=0),
        "rows 65535": _with(make_radiograph(), Rows=65535, Columns=65535),
        "no rows": make_radiograph(Rows=None),
        "no pixels": make_radiograph(PixelData=None),
        "odd pixels": make_radiograph(PixelData=b"\0" * 4002),
        "rle bomb": make_radiograph(transfer_syntax=RLELossless, PixelData=encapsulate([rle])),
        "jpeg 2000 bomb": make_radiograph(
            transfer_syntax=JPEG2000Lossless, PixelData=bomb_of(JPEG2000Lossless, 8, b"\x7f\xff\xff\xff" * 2)
        ),
        "jpeg bomb": make_radiograph(transfer_syntax=JPEGLosslessSV1, PixelData=encapsulate([jpeg])),
    }
    for name, ds in sets.items():
        save(ds, folder / f"{name}.dcm")
    deflated = make_radiograph()
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflated.add_new("PixelData", "OW", b"\0" * 50_000_000)
    save(deflated, folder / "deflated.dcm")
    for name, data in made.items():
        (folder / f"{name}.dcm").write_bytes(data)
    return {path.stem: path for path in sorted(folder.glob("*.dcm")) if path.stem != "film"}


def _with(ds: Dataset, **keywords: Any) -> Dataset:
    for keyword, value in keywords.items():
        setattr(ds, keyword, value)
    return ds


#: What may as well be read: the film in it is whole.
HARMLESS = {"a VR nobody knows", "300 nested", "meta length lies", "elf"}


def test_every_hostile_file_ends_with_a_reason(children: Children, tmp_path: Path) -> None:
    files = hostile_files(tmp_path)
    assert len(files) > 20
    answers = children.read_radiographs(list(files.values()))
    codes = {name: getattr(answer, "code", "read") for name, answer in zip(files, answers, strict=True)}
    assert set(codes.values()) <= {"read", "DECODE_FAILED", "DECODE_LIMIT", "PIXELS_MISSING"}
    assert {name for name, code in codes.items() if code == "read"} <= HARMLESS
    assert codes["rows 65535"] == ReasonCode.DECODE_LIMIT
    assert (
        codes["no pixels"] == codes["cut in the pixels"] == codes["odd pixels"] == ReasonCode.PIXELS_MISSING
    )
    sentences = [answer.sentence for answer in answers if isinstance(answer, ImageRejected)]
    assert not any("ller" in s or "P1000" in s for s in sentences), "no sentence names the patient"


def test_explain_says_one_sentence_of_an_unreadable_file(children: Children, tmp_path: Path) -> None:
    files = hostile_files(tmp_path)
    asked = [tmp_path / "absent.dcm", tmp_path, files["text"], files["no pixels"]]
    absent, folder, text, whole = explain(asked, Selection.load(None), children.read_facts)
    assert absent.error == f"There is no file {tmp_path / 'absent.dcm'}."
    assert folder.decision is None
    assert text.error == f"{files['text']} cannot be read: The file is not DICOM."
    assert text.as_dict() == {"file": str(files["text"]), "decision": None, "error": text.error}
    assert whole.decision is not None
    assert whole.decision.decision == "analyse"
    told = whole.as_dict()
    assert (told["decision"], told["reason"], told["flags"]) == ("analyse", "HIP_AP", [])
    assert {"attribute": "BodyPartExamined", "value": "HIP", "vote": "region hip"} in told["votes"]


# Fuzz: seeded, so that a failure can be repeated


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """Films hurt at random places of their structure: tags, VRs, lengths, values, codestreams, ends."""
    rng = random.Random(seed)
    size = {"Rows": 32, "Columns": 24}
    sources = [
        make_radiograph(**size, transfer_syntax=syntax)
        for syntax in (
            "1.2.840.10008.1.2",
            "1.2.840.10008.1.2.1",
            JPEGLosslessSV1,
            JPEGLSLossless,
            RLELossless,
            JPEG2000Lossless,
            JPEGExtended12Bit,
        )
    ]
    films = []
    for ds in sources:
        buffer = BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        films.append(buffer.getvalue())
    for _ in range(count):
        data = bytearray(rng.choice(films))
        pixels = data.find(b"\xe0\x7f\x10\x00")
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(132, len(data)) if rng.random() < 0.5 else rng.randrange(pixels, len(data))
            what = rng.randrange(6)
            if what == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif what == 1:
                data[at : at + 4] = rng.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\xfe\xff\x0d\xe0"]
                )
            elif what == 2:
                del data[at : at + rng.randrange(1, 64)]
            elif what == 3:
                data[at:at] = bytes(data[at : at + rng.randrange(1, 64)])
            elif what == 4:
                data[at : at + 2] = rng.choice([b"SQ", b"UN", b"OW", b"UT", b"US", b"\xff\xd9", b"\xff\xc3"])
            else:
                del data[at:]
            if len(data) <= 200:
                break
            pixels = min(pixels, len(data) - 1)
        yield bytes(data)


def read_mutants(seed: int, count: int, folder: str) -> dict[str, int]:
    """In a child: read each mutant as a child does, and count the answers."""
    from hipnode.children import read_facts_file, read_radiograph_file

    seen: dict[str, int] = {}
    path = Path(folder) / f"mutant-{seed}"
    for data in mutants(seed, count):
        path.write_bytes(data)
        for answer in (read_facts_file(str(path)), read_radiograph_file(str(path), 10**6)):
            assert answer.code is not None or isinstance(answer.value, Facts | Radiograph)
            seen[str(answer.code)] = seen.get(str(answer.code), 0) + 1
    return seen


def test_mutants_end_with_a_reason_or_are_read(children: Children, tmp_path: Path) -> None:
    seen: dict[str, int] = {}
    for seed in range(4):
        for code, count in children.call(read_mutants, seed, 100, str(tmp_path)).items():
            seen[code] = seen.get(code, 0) + count
    assert sum(seen.values()) == 2 * 4 * 100
    assert seen["None"] > 60, "some survive"
    assert seen["DECODE_FAILED"] > 30, "some do not"
