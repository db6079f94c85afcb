"""Who may connect, and what is negotiated with them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
)

from hipnode.errors import SettingsError
from hipnode.scp import AllowedPeers
from hipnode.scp.contexts import supported_contexts
from hipnode.transfer_syntaxes import RADIOGRAPH_SYNTAXES
from tests.encoded import EXPLICIT, IMPLICIT
from tests.scp_node import DX, SR, associated, running_scp

# --- who may connect -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peers", "calling", "called", "accepted"),
    [
        ("", "MODALITY", "HIPNODE", False),
        ("*@127.0.0.0/8", "MODALITY", "HIPNODE", True),
        ("*@127.0.0.0/8", "MODALITY", "OTHER", False),
        ("MODALITY@127.0.0.1", "MODALITY", "HIPNODE", True),
        ("PACS@127.0.0.1", "MODALITY", "HIPNODE", False),
        ("MODALITY@10.0.0.0/8", "MODALITY", "HIPNODE", False),
        ("MODALITY@10.0.0.0/8, PACS@127.0.0.1", "MODALITY", "HIPNODE", False),
    ],
)
def test_who_is_not_on_the_list_is_rejected(
    tmp_path: Path, peers: str, calling: str, called: str, accepted: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    contexts = [("1.2.840.10008.1.1", [IMPLICIT])]
    with (
        running_scp(tmp_path, peers=peers) as node,
        associated(node.port, contexts, calling=calling, called=called) as assoc,
    ):
        assert assoc.is_established is accepted
        assert assoc.is_rejected is not accepted
    said = "".join(capfd.readouterr())
    assert ("association.rejected" in said) is not accepted
    assert f"calling_ae_title={calling}" in said


@pytest.mark.parametrize(
    ("text", "ae_title", "address", "allowed"),
    [
        ("", "A", "10.0.0.1", False),
        ("A@10.0.0.0/24", "A", "10.0.0.7", True),
        ("A@10.0.0.0/24", " A ", "10.0.0.7", True),
        ("A@10.0.0.0/24", "a", "10.0.0.7", False),
        ("A@10.0.0.0/24", "A", "10.0.1.7", False),
        ("*@10.0.0.1, B@0.0.0.0/0", "A", "10.0.0.2", False),
        ("*@10.0.0.1, B@0.0.0.0/0", "B", "1.2.3.4", True),
        ("*@10.0.0.0/8", "A", "::ffff:10.1.1.1", True),
        ("*@::1/128", "A", "::1", True),
        ("*@fe80::/10", "A", "fe80::1%eth0", True),
        ("*@10.0.0.0/8", "A", "nonsense", False),
        ("A@B@10.0.0.1", "A@B", "10.0.0.1", True),
    ],
)
def test_the_allow_list(text: str, ae_title: str, address: str, allowed: bool) -> None:
    assert AllowedPeers.parse(text).allows(ae_title, address) is allowed


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("10.0.0.1", "AE@CIDR"),
        ("@10.0.0.1", "AE@CIDR"),
        ("PACS@", "no network"),
        ("PACS@pacs.example", "AE@CIDR"),
        ("PACS@10.0.0.5/24", "10.0.0.0/24"),
        ("PACS@10.0.0.0/33", "AE@CIDR"),
        ("A_TITLE_TOO_LONG_X@10.0.0.1", "1 to 16"),
        ("A\\B@10.0.0.1", "no backslash"),
    ],
)
def test_a_bad_allow_list_says_what_to_write(text: str, advice: str) -> None:
    with pytest.raises(SettingsError, match=advice):
        AllowedPeers.parse(f"OK@10.0.0.1,{text}")


# --- what is negotiated --------------------------------------------------------------------------


def test_lossless_comes_before_uncompressed_and_lossy_comes_last() -> None:
    def chosen(offered: list[str], sop_class: str = DX) -> str | None:
        proposal = SimpleNamespace(abstract_syntax=sop_class, transfer_syntax=offered)
        supported = supported_contexts([proposal])  # type: ignore[list-item]
        order = [str(s) for s in supported[0].transfer_syntax] if supported else []
        return next((s for s in order if s in offered), None)

    everything = sorted(RADIOGRAPH_SYNTAXES)
    assert chosen(everything) == JPEGLSLossless
    assert chosen([IMPLICIT, EXPLICIT]) == EXPLICIT
    assert chosen([JPEGBaseline8Bit, JPEG2000, IMPLICIT]) == IMPLICIT
    assert chosen([JPEGBaseline8Bit, JPEGExtended12Bit]) == JPEGExtended12Bit
    assert chosen([str(DeflatedExplicitVRLittleEndian), str(ExplicitVRBigEndian)]) is None
    assert chosen([str(DeflatedExplicitVRLittleEndian)], SR) is None
    assert chosen(["1.2.840.10008.1.2.4.102"], CTImageStorage) == "1.2.840.10008.1.2.4.102"
    assert chosen(["1.2.840.10008.1.2.4.102", IMPLICIT], CTImageStorage) == IMPLICIT
    assert chosen([EXPLICIT], "1.2.840.10008.5.1.4.1.2.2.1") is None
