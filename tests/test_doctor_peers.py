"""hipnode doctor on destinations that do not answer, and on peers that were refused."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hipnode.destinations import Destination
from hipnode.doctor import write_back
from hipnode.doctor.destinations import check_destinations
from hipnode.doctor.refusals import check_refusals
from hipnode.ledger import PeerSeen
from hipnode.scu import Timeouts
from tests.doctor_site import EVERYWHERE, command, records_of, seen, site, the
from tests.pacs import SecondaryCaptureImageStorage, pacs
from tests.peers import Orthanc, free_port

# --- Destinations ----------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def test_each_way_not_to_reach_a_destination_has_its_own_cure(tmp_path: Path, silent: int) -> None:
    with pacs(require_calling=["OTHER"]) as closed, pacs(require_called=True) as strict, pacs() as well:
        destinations = [
            Destination("down", "PACS", "127.0.0.1", free_port()),
            Destination("lost", "PACS", "no-such-host.invalid", 104),
            Destination("dumb", "PACS", "127.0.0.1", silent),
            Destination("misnamed", "PASC", "127.0.0.1", strict.port),
            Destination("stranger", "PACS", "127.0.0.1", closed.port),
            well.destination("well"),
        ]
        with site(tmp_path, *destinations, prepared=False) as one:
            records = check_destinations(one)
    said = [(r.says.split(" ")[0], r.state.value) for r in records]
    assert said == [(d.name, "fail") for d in destinations[:5]] + [("well", "ok")]
    down, lost, dumb, misnamed, stranger, _ = records
    assert "nothing listens on port" in down.says
    assert "has no address" in lost.says
    assert "no DICOM answer" in dumb.says
    assert "not called PASC" in misnamed.says
    assert "Correct `ae_title`" in misnamed.cure
    assert "does not know our AE title HIPNODE" in stranger.says
    assert "Let the PACS add HIPNODE" in stranger.cure
    assert all(str(tmp_path) in r.cure for r in (down, lost, dumb))


def test_a_destination_that_hangs_does_not_hang_the_doctor(tmp_path: Path, silent: int) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    destination = f'[[destination]]\nname = "PACS"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {silent}\n'
    (tmp_path / "data" / "destinations.toml").write_text(destination)
    code, records = records_of(tmp_path)
    assert code == 1
    assert "no DICOM answer" in the(records, "destination-echo").says
    late = [r for r in records if "was not known after" in r.says]
    assert late == []


@pytest.mark.peers("orthanc")
def test_orthanc_is_asked_by_a_wrong_name_and_stores_the_test_object(tmp_path: Path) -> None:
    folder = tmp_path / "orthanc"
    folder.mkdir()
    server = Orthanc(folder, DicomCheckCalledAet=True)
    server.start()
    try:
        right = Destination("PACS", server.ae_title, "127.0.0.1", server.dicom_port)
        wrong = Destination("WRONG", "ORTHANK", "127.0.0.1", server.dicom_port)
        with site(tmp_path, right, wrong) as one:
            one.timeouts = Timeouts(connect_s=8, acse_s=8, dimse_s=8, network_s=8)  # a busy machine's Orthanc
            answers, misnamed = [r for r in check_destinations(one) if r.check == "destination-echo"]
            assert (answers.state, misnamed.state) == ("ok", "fail")
            assert "not called ORTHANK" in misnamed.says
            records = write_back(one, right)
        assert [r.state for r in records] == ["ok", "note"]
        (kept,) = server.instances(PatientID="HIPNODE-TEST")
        tags = server.get(f"/instances/{kept}/simplified-tags")
        assert (tags["PatientName"], tags["Manufacturer"]) == ("HIPNODE^TEST", "hipnode")
        assert tags["SOPInstanceUID"] in records[0].says
        assert tags["StudyInstanceUID"] in records[0].says
    finally:
        server.stop()


def test_back_to_the_sender_asks_those_who_sent(tmp_path: Path) -> None:
    with pacs() as archive:
        back = Destination("BACK", "", "", archive.port, sender=True)
        with site(tmp_path, back) as one:
            assert [r.state for r in check_destinations(one)] == ["note"]  # nobody has sent anything
            (refused,) = write_back(one, back)
            assert (refused.state, "no one place" in refused.says) == ("warn", True)
        with site(tmp_path, back) as one:
            seen(one, PeerSeen("CR_ROOM", "127.0.0.1", "HIPNODE", associations=1, instances=4))
            (found,) = check_destinations(one)
        assert found.state == "ok"
        assert f"CR_ROOM at 127.0.0.1:{archive.port}" in found.says
        assert archive.requests[-1].replace(" ", "") == "HIPNODE>CR_ROOM"


def test_a_test_object_that_is_not_taken_says_which_status(tmp_path: Path) -> None:
    with (
        pacs(answers={SecondaryCaptureImageStorage: [0xA700]}) as archive,
        site(tmp_path, archive.destination(), prepared=False) as one,
    ):
        (full,) = write_back(one, archive.destination())
        assert (full.state, "0xA700" in full.says) == ("fail", True)
    with (
        pacs(takes=("1.2.840.10008.5.1.4.1.1.88.33",)) as archive,
        site(tmp_path, archive.destination(), prepared=False) as one,
    ):
        (unsupported,) = write_back(one, archive.destination())
        assert 'kinds = ["SR"]' in unsupported.cure


def test_a_destination_nobody_named_and_a_full_folder_are_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    code, out, err = command(tmp_path, "--write-back", "PASC")
    assert (code, out) == (2, "")
    assert "No destination is called PASC" in err
    code, out, err = command(tmp_path, "--support-bundle", str(tmp_path))
    assert (code, out) == (2, "")
    assert "is no empty folder" in err


def test_whether_a_destination_ever_called_us(tmp_path: Path) -> None:
    with pacs() as archive, site(tmp_path, archive.destination()) as one:
        assert the(check_destinations(one), "destination-route").state == "note"
    with pacs() as archive, site(tmp_path, archive.destination()) as one:
        seen(one, PeerSeen("PACS", "127.0.0.1", "HIPNODE", associations=3, instances=12))
        found = the(check_destinations(one), "destination-route")
        assert found.state == "ok"
        assert "sent 12 objects" in found.says


# --- Who was refused -------------------------------------------------------------------------------


def test_refused_peers_are_named_until_they_get_in(tmp_path: Path) -> None:
    knock = PeerSeen("CR_ROOM", "10.1.2.7", "HIPNODE", refusals=3, last_refusal="NOT_ALLOWED")
    with site(tmp_path, host=EVERYWHERE, allowed_peers="PACS@10.1.2.3/32") as one:
        assert [r.state for r in check_refusals(one)] == ["ok"]
    with site(tmp_path, host=EVERYWHERE, allowed_peers="PACS@10.1.2.3/32") as one:
        seen(one, knock, PeerSeen("a,b", "10.1.2.8", "HIPNODE", refusals=1, last_refusal="NOT_ALLOWED"))
        first, second = sorted(check_refusals(one), key=lambda r: r.says, reverse=True)
        assert first.state == "fail"  # nothing comes from anybody else
        assert "add *@10.1.2.8/32" in first.cure
        assert "HIPNODE_ALLOWED_PEERS='PACS@10.1.2.3/32,CR_ROOM@10.1.2.7/32'" in second.cure
    with site(tmp_path, host=EVERYWHERE, allowed_peers="PACS@10.1.2.3/32,CR_ROOM@10.1.2.0/24") as one:
        seen(one, PeerSeen("PACS", "10.1.2.3", "HIPNODE", associations=1, instances=1))
        assert [r.state for r in check_refusals(one)] == [
            "note",
            "warn",
        ]  # allowed now; a stranger beside a PACS
        seen(one, PeerSeen("PACS", "10.1.2.3", "HIPNODE", stores_refused=2, last_refusal="A700"))
    later = datetime.now(UTC) + timedelta(minutes=5)
    with site(tmp_path, host=EVERYWHERE, allowed_peers="PACS@10.1.2.3/32", clock=lambda: later) as one:
        full = next(r for r in check_refusals(one) if r.says.startswith("PACS"))
        assert "out of resources" in full.says
        seen(one, PeerSeen("CR_ROOM", "10.1.2.7", "HIPNODE", associations=1))
    with site(tmp_path, host=EVERYWHERE, allowed_peers="PACS@10.1.2.3/32", clock=lambda: later) as one:
        assert not [r for r in check_refusals(one) if "CR_ROOM" in r.says]


def test_a_title_made_to_be_copied_into_a_shell_is_left_out(tmp_path: Path) -> None:
    with site(tmp_path, host=EVERYWHERE, allowed_peers="PACS@10.1.2.3/32") as one:
        seen(one, PeerSeen("';reboot;'", "10.6.6.6", "HIPNODE", refusals=1, last_refusal="NOT_ALLOWED"))
        seen(one, PeerSeen("CR", "10.6.6.7", "$(reboot)", refusals=1, last_refusal="CALLED_AE_TITLE"))
        cures = [record.cure for record in check_refusals(one)]
    assert len(cures) == 2
    assert "add *@10.6.6.6/32" in "".join(cures)
    assert "reboot" not in "".join(cures)
