"""All facts of one header, each from the words and switches of a rulebook, with what was looked at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from hipnode.selection import witnesses
from hipnode.selection.facts import OWN_MANUFACTURER, Facts
from hipnode.selection.rules import Rulebook
from hipnode.selection.witnesses import BODY_PART, RegionVote, ViewVote

_RADIOGRAPHS = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
)


@dataclass(frozen=True)
class Vote:
    """One attribute that was looked at, its value, and what it says ("" when nothing)."""

    attribute: str
    value: str
    vote: str


@dataclass(frozen=True)
class Header:
    """The facts a rule may ask for, the words its sentence may name, and the votes behind them."""

    facts: Mapping[str, str | bool]
    words: Mapping[str, str]
    votes: tuple[Vote, ...]


def read_header(facts: Facts, book: Rulebook, own: bool) -> Header:
    """Work out every fact of one header (docs/selection.md). own: the caller knows the object as ours."""
    image = witnesses.texts_of(facts, witnesses.IMAGE_TEXTS, witnesses.IMAGE_CODES)
    order = witnesses.texts_of(facts, witnesses.ORDER_TEXTS, witnesses.ORDER_CODES)
    body_part = witnesses.body_part_vote(book, facts)
    coded_votes = [v for v in (body_part, *witnesses.anatomy_votes(book, facts)) if v is not None]
    text_regions = [v for t in image if (v := witnesses.region_vote(book, t)) is not None]
    order_regions = [v for t in order if (v := witnesses.region_vote(book, t)) is not None]
    named = facts.values(BODY_PART) or facts.codes.get(witnesses.ANATOMY)
    region = witnesses.region_fact(
        text_regions, witnesses.coded_region(coded_votes), order_regions, bool(image or order or named)
    )
    views = _view_votes(facts, book, image, body_part)
    order_views = [w for t in order if (w := witnesses.view_vote(book, t)) is not None]
    view = witnesses.view_fact(views, order_views)
    raw_image = _raw_texts(facts, (*witnesses.IMAGE_TEXTS, BODY_PART), witnesses.IMAGE_CODES)
    raw_order = _raw_texts(facts, witnesses.ORDER_TEXTS, witnesses.ORDER_CODES)
    hip_sign = any("hip" in v.words for v in (*text_regions, *coded_votes))
    found: dict[str, str | bool] = {
        "own": own or is_own(facts),
        **_kind_of_object(facts, book),
        "derived": _derived(facts, book, raw_image),
        "species": _species(facts, book, raw_image + raw_order),
        "long_leg": _long_leg(facts, book, raw_image),
        "exam": _exam(book, raw_image + raw_order),
        "calibration": facts.first("QualityControlImage").upper() == "YES"
        or (not hip_sign and witnesses.says(book, "calibration", raw_image)),
        "region": region.fact,
        "view": view.fact,
        "age": _age(facts, book, raw_image),
        "implant": _implant(book, raw_image, raw_order),
    }
    words = {
        "region_word": region.region_word or "another region",
        "view_word": view.view_word or "another view",
        "a": region.a if region.fact == "conflict" else view.a,
        "b": region.b if region.fact == "conflict" else view.b,
        "x": region.x,
        "y": region.y or "another region",
        "view_a": view.a,
        "view_b": view.b,
        "SOPClass": facts.sop_class_name,
    }
    votes = _votes(facts, found, coded_votes + text_regions + order_regions, views + order_views)
    return Header(found, words, votes)


def is_own(facts: Facts) -> bool:
    """Whether the header says hipnode made the object: its manufacturer, or its coding scheme."""
    makers = (facts.first("Manufacturer"), facts.first("SecondaryCaptureDeviceManufacturer"))
    return facts.own_code or any(maker.strip().casefold() == OWN_MANUFACTURER for maker in makers)


def _view_votes(
    facts: Facts, book: Rulebook, image: list[witnesses.Text], body_part: RegionVote | None
) -> list[ViewVote]:
    texts = [*witnesses.texts_of(facts, ("ViewPosition",), ()), *image]
    # FACE is a view in French and a skull in BodyPartExamined: there it takes a region beside it.
    if body_part is not None:
        texts += witnesses.texts_of(facts, (BODY_PART,), ())
    votes = [witnesses.view_vote(book, text) for text in texts]
    for sequence in ("ViewCodeSequence", "ViewModifierCodeSequence"):
        votes += [witnesses.code_view_vote(book, sequence, code) for code in facts.codes.get(sequence, ())]
    votes.append(witnesses.orientation_vote(facts))
    return [vote for vote in votes if vote is not None]


def _kind_of_object(facts: Facts, book: Rulebook) -> dict[str, str | bool]:
    """Facts of class, modality, pixels and size."""
    rows, columns = facts.integer("Rows") or 0, facts.integer("Columns") or 0
    modality = facts.first("Modality").upper()
    photometric = facts.first("PhotometricInterpretation").upper()
    colour = (facts.integer("SamplesPerPixel") or 1) > 1 or photometric[:10] not in ("", "MONOCHROME")
    radiograph = facts.sop_class_uid in _RADIOGRAPHS
    if not rows or not columns:
        kind = "not_image"
    elif radiograph:
        kind = "radiograph"
    elif facts.sop_class_uid.startswith(SecondaryCaptureImageStorage):
        kind = "digitised" if not colour and _is_digitised(facts, modality) else "screen"
    else:
        kind = "other_class"
    if modality in book.site["other_modalities"]:
        said = "other"
    else:
        said = "unusual" if radiograph and modality in book.site["unusual_modalities"] else "radiography"
    return {
        "object": kind,
        "modality": said,
        "colour": colour,
        "frames": "many" if (facts.integer("NumberOfFrames") or 1) > 1 else "one",
        "size": "small" if rows and min(rows, columns) < book.site["min_side_px"] else "enough",
        "raw": facts.sop_class_uid == DigitalXRayImageStorageForProcessing
        or facts.first("PresentationIntentType").upper() == "FOR PROCESSING",
    }


def _is_digitised(facts: Facts, modality: str) -> bool:
    """A gray Secondary Capture that came from a film digitiser or a gateway (PS3.3 C.8.6.1)."""
    conversion = facts.first("ConversionType").upper()
    if modality in ("CR", "DX", "RG"):
        return conversion in ("DF", "DI", "")
    return modality in ("OT", "") and conversion == "DF"


def _derived(facts: Facts, book: Rulebook, image: list[str]) -> bool:
    skip = set(book.site["image_type_skip"])
    makers = [facts.first("Manufacturer"), facts.first("ManufacturerModelName")]
    return (
        bool(skip & _image_type_words(facts))
        or witnesses.says(book, "derived_result", image)
        or witnesses.says(book, "derived_maker", makers)
    )


def _image_type_words(facts: Facts) -> set[str]:
    values = facts.values("ImageType")
    return {value.upper() for value in values} | {
        w for v in values for w in v.upper().replace("_", " ").split()
    }


def _species(facts: Facts, book: Rulebook, texts: list[str]) -> str:
    described = [*facts.values("PatientSpeciesDescription")]
    described += [code.meaning for code in facts.codes.get("PatientSpeciesCodeSequence", ()) if code.meaning]
    if witnesses.says(book, "animal", [*described, *texts]):
        return "animal"
    if not described:
        return "not_given"
    return "human" if witnesses.says(book, "human", described) else "animal"


def _long_leg(facts: Facts, book: Rulebook, image: list[str]) -> bool:
    rows, columns = facts.integer("Rows") or 0, facts.integer("Columns") or 0
    long = bool(rows and columns) and max(rows, columns) > book.site["max_aspect"] * min(rows, columns)
    stitched = bool(set(book.site["image_type_long_leg"]) & _image_type_words(facts))
    return long or stitched or witnesses.says(book, "long_leg", image)


def _exam(book: Rulebook, texts: list[str]) -> str:
    if witnesses.says(book, "bone_density", texts):
        return "bone_density"
    return "special" if witnesses.says(book, "special_exam", texts) else "plain"


def _age(facts: Facts, book: Rulebook, image: list[str]) -> str:
    least = book.site["min_age"]
    if facts.age_years is not None:
        return "child" if facts.age_years < least else "adult"
    return "child" if least > 0 and witnesses.says(book, "child", image) else "not_given"


def _implant(book: Rulebook, image: list[str], order: list[str]) -> str:
    if not witnesses.says(book, "implant", image + order):
        return "none"
    return "asked" if witnesses.says(book, "fracture_question", order) else "named"


def _raw_texts(facts: Facts, keywords: tuple[str, ...], sequences: tuple[str, ...]) -> list[str]:
    texts = [" ".join(facts.values(keyword)) for keyword in keywords]
    texts += [code.meaning for sequence in sequences for code in facts.codes.get(sequence, ())]
    return [text for text in texts if text]


# What was looked at

_LOOKED_AT = {
    "Manufacturer": ("own", "derived"),
    "ManufacturerModelName": ("derived",),
    "Modality": ("modality",),
    "ConversionType": (),
    "PhotometricInterpretation": ("colour",),
    "NumberOfFrames": ("frames",),
    "ImageType": (),
    "PatientSpeciesDescription": ("species",),
    "Rows": ("size",),
    "Columns": (),
    "QualityControlImage": (),
    "PresentationIntentType": ("raw",),
}
_UNREMARKABLE = (False, "radiography", "one", "enough", "not_given", "plain", "none")


def _votes(
    facts: Facts, found: Mapping[str, Any], regions: list[RegionVote], views: list[ViewVote]
) -> tuple[Vote, ...]:
    """Every attribute looked at, in the order of the rules, with what it says."""
    votes = [Vote("SOPClassUID", facts.sop_class_name, f"object {found['object']}")]
    for keyword, names in _LOOKED_AT.items():
        said = [f"{n} {str(found[n]).lower()}" for n in names if found[n] not in _UNREMARKABLE]
        value = "\\".join(facts.attributes.get(keyword, ()))
        votes.append(Vote(keyword, value, "; ".join(said) if value else ""))
    witnesses_of_both = (
        BODY_PART,
        witnesses.ANATOMY,
        "ViewPosition",
        "ViewCodeSequence",
        "ViewModifierCodeSequence",
        "PatientOrientation",
        *witnesses.IMAGE_TEXTS,
        *witnesses.IMAGE_CODES,
        *witnesses.ORDER_TEXTS,
        *witnesses.ORDER_CODES,
    )
    for attribute in witnesses_of_both:
        said = [f"region {v.vote}" for v in regions if v.attribute == attribute]
        said += [f"view {v.vote}" for v in views if v.attribute == attribute]
        codes = [f"{code.key}^{code.meaning}" for code in facts.codes.get(attribute, ())]
        value = "\\".join([*facts.attributes.get(attribute, ()), *codes])
        votes.append(Vote(attribute, value, "; ".join(said)))
    years = "" if facts.age_years is None else f"{facts.age_years:.0f} years"
    votes.append(Vote("PatientAge", years, f"age {found['age']}" if years else ""))
    return tuple(votes)
