"""Which presentation contexts the SCP accepts, and in which transfer syntax (PS3.8 section 7.1.1.13)."""

from collections.abc import Iterable

from pynetdicom.presentation import PresentationContext

from hipnode.transfer_syntaxes import RADIOGRAPH_SYNTAXES, UNCOMPRESSED

VERIFICATION = "1.2.840.10008.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

#: The classes whose bytes are kept: a film may be in one of these, and in no other.
RADIOGRAPH_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
        "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
        SECONDARY_CAPTURE,
    }
)

# Not readable without inflating (a bomb's way in) or in another byte order: never accepted.
_REFUSED_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
        "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
        "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
        "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
        "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
    }
)

# Roots of the SOP classes of composite objects, also of those younger than this release. The rest of
# the standard's services (query, worklist, printing, commitment, objects of no patient) are not stored.
_STORAGE_ROOTS = (
    "1.2.840.10008.5.1.4.1.1.",
    "1.2.840.10008.5.1.4.34.",
    "1.2.840.10008.5.1.1.27",  # Stored Print (retired)
    "1.2.840.10008.5.1.1.29",  # Hardcopy Grayscale Image (retired)
    "1.2.840.10008.5.1.1.30",  # Hardcopy Color Image (retired)
)
_NOT_STORED = (  # stand under those roots
    "1.2.840.10008.5.1.4.34.6",  # Unified Procedure Step
    "1.2.840.10008.5.1.4.34.8",  # RT Conventional Machine Verification
    "1.2.840.10008.5.1.4.34.9",  # RT Ion Machine Verification
    "1.2.840.10008.5.1.4.1.1.200.",  # Defined Procedure Protocols: no patient's, and their query
    "1.2.840.10008.5.1.4.1.1.201.",  # Inventory: no patient's, and its query
)
_STORED_AFTER_ALL = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.200.2",  # CT Performed Procedure Protocol
        "1.2.840.10008.5.1.4.1.1.200.8",  # XA Performed Procedure Protocol
    }
)
_STANDARD = "1.2.840.10008."


def is_storage(sop_class_uid: str) -> bool:
    """Whether objects of this class are stored. A private class is: nobody else would send it to us."""
    if not sop_class_uid.startswith(_STANDARD):
        return True
    if sop_class_uid.startswith(_NOT_STORED):
        return sop_class_uid in _STORED_AFTER_ALL
    return sop_class_uid.startswith(_STORAGE_ROOTS)


def supported_contexts(proposed: Iterable[PresentationContext]) -> list[PresentationContext]:
    """What we support of what a peer proposes, for `negotiate_as_acceptor`.

    Radiographs in RADIOGRAPH_SYNTAXES; every other storage class, known or not, in whatever is
    proposed (a PACS routes whole studies, and a class we refuse makes it try for ever).
    """
    offers: dict[str, list[str]] = {}
    for context in proposed:
        offers.setdefault(str(context.abstract_syntax), []).extend(map(str, context.transfer_syntax))
    supported = []
    for sop_class_uid, syntaxes in offers.items():
        if sop_class_uid == VERIFICATION:
            accepted = list(UNCOMPRESSED)
        elif sop_class_uid in RADIOGRAPH_CLASSES:
            accepted = list(RADIOGRAPH_SYNTAXES)
        elif is_storage(sop_class_uid):
            readable = (
                s for s in syntaxes if s.startswith("1.2.840.10008.1.2") and s not in _REFUSED_SYNTAXES
            )
            accepted = list(dict.fromkeys((*UNCOMPRESSED, *readable)))
        else:
            continue
        context = PresentationContext()
        context.abstract_syntax = sop_class_uid
        context.transfer_syntax = accepted
        supported.append(context)
    return supported
