"""Tables II and III of Bone Joint J 2025;107-B:213-220 for one's own cases, and what the printed ones can be. Pure.

Table II mixes units: its accuracies are too high for cases and fit boxes counted in pixels, so both are
printed. Table III is about surgeons who saw the model's answer, with five outcomes of which one is empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import fsum

from hipnode.evaluation.published.printed import (
    BJJ2025,
    EXTERNAL_FRACTURES,
    INTERNAL_FRACTURES,
    SURGEONS,
    TABLE_II,
    TABLE_III,
    TABLE_III_MEAN,
    TEST_FRACTURES,
    between,
    dice_range,
    meets,
)
from hipnode.evaluation.record import ANY, ClassPlaces
from hipnode.evaluation.report.document import Cell, Table
from hipnode.evaluation.statistics.classes import NO_FRACTURE
from hipnode.evaluation.statistics.counts import (
    ClassTable,
    macro_with_zero,
    micro_specificity,
    rounds_to,
    share_of_positives,
)
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.localisation import PIXEL_METRICS

TWO = "Accuracy", "Sensitivity", "Specificity", "IoU", "Dice"
OUTCOMES = len(EXTERNAL_FRACTURES) + 1  # with no fracture


def table_two_cases(classes: ClassTable, places: Sequence[ClassPlaces], unit: str, ending: str = "") -> Table:
    """Table II per case. classes: the multi-label view; places: IoU and Dice of found lesions, may be empty.

    unit: what the classes table counts. ending: of the table's name where there are several models.
    """
    overlaps = {place.name: place.overlap for place in places}
    rows: list[tuple[Cell, ...]] = []
    for row in classes.rows:
        overlap = overlaps.get(row.name)
        found: tuple[Cell, ...] = (overlap.iou_matched, overlap.dice_matched) if overlap else (None, None)
        three = tuple(row.estimates[m] for m in ("accuracy", "sensitivity", "specificity"))
        rows.append((row.name, row.counts.n, row.counts.positives, *three, *found))
        rows += _printed_two(row.name, 2)
    return Table(
        f"bjj2025-table-2-cases{ending}",
        f"Table II, one {unit} one count",
        unit,
        ("Class", "n", "Events", *TWO[:3], "IoU of found lesions", "Dice of found lesions"),
        tuple(rows),
        (
            "Multi-label view: a class is called from its own threshold. Events are those with the class.",
            "IoU and Dice are of lesions that a mark of their class overlaps by at least 0.5; their n counts lesions.",
            f"Printed: {BJJ2025}, table II, which does not say what it counts.",
        ),
    )


def table_two_pixels(places: Sequence[ClassPlaces], ending: str = "") -> Table | None:
    """Table II with boxes as masks counted in pixels, pooled and as mean over images. None without pixel counts."""
    rows: list[tuple[Cell, ...]] = []
    for place in places:
        if place.pixels is None or place.name == ANY:
            continue
        pooled, mean = (
            [table[m] for m in PIXEL_METRICS] for table in (place.pixels.pooled, place.pixels.per_image)
        )
        images = pooled[0].events
        rows.append((f"{place.name}, all pixels", pooled[0].n, images, *pooled))
        rows.append((f"{place.name}, mean of images with it", images, images, *mean))
        rows += _printed_two(place.name, 2)
    if not rows:
        return None
    return Table(
        f"bjj2025-table-2-pixels{ending}",
        "Table II, one pixel one count",
        "pixel",
        ("Class", "Images", "Events (images with the class)", *TWO),
        tuple(rows),
        (
            "Boxes of marks that fired, painted as masks, against the reference boxes painted alike.",
            "Most pixels of a film lie in no box: accuracy and specificity are near 1 for any model with small boxes, "
            "and say nothing about patients.",
            f"Printed: {BJJ2025}, table II; this is the unit that its accuracies fit.",
        ),
    )


def table_two_check() -> Table:
    """What the printed rows of table II can be, by arithmetic alone; n: the fractures of the paper's internal data."""
    total = sum(INTERNAL_FRACTURES.values())
    rows: list[tuple[Cell, ...]] = []
    for name, printed in TABLE_II.items():
        accuracy, sensitivity, specificity, iou, dice = (f"{float(text):.2f}" for text in printed)
        of_class = Fraction(INTERNAL_FRACTURES[name], total)
        per_case = of_class * Fraction(sensitivity) + (1 - of_class) * Fraction(specificity)
        shares = share_of_positives(accuracy, sensitivity, specificity)
        if shares is None:
            fit, verdict = "none", "no 2 x 2 table: accuracy is not between sensitivity and specificity"
        else:
            fit = f"{shares[0]:.3f} to {shares[1]:.3f}"
            chance = 1.96 * float(of_class * (1 - of_class) / TEST_FRACTURES) ** 0.5
            away = max(shares[0] - of_class, of_class - shares[1])
            verdict = "not counted per case" if away > chance else "can be cases, at the edge of rounding"
        implied = dice_range(iou)
        words = (
            "fits"
            if meets(implied, dice)
            else "does not fit one pair of masks; a mean over images can be lower"
        )
        rows.append(
            (
                name, total, INTERNAL_FRACTURES[name], " / ".join(printed[:3]), f"{float(per_case):.3f}",
                f"{float(of_class):.3f}", fit, verdict, f"{between(implied)}; printed {dice}: {words}",
            )
        )  # fmt: skip
    return Table(
        "bjj2025-table-2-check",
        "What the printed table II can be",
        "image",
        (
            "Class", "n", "Events", "Printed accuracy / sensitivity / specificity", "Accuracy per case would be",
            "Share of the class", "Shares that fit the printed three", "Verdict", "Dice from printed IoU",
        ),
        tuple(rows),
        (
            "Accuracy is the mean of sensitivity and specificity weighted by the share of positives. Where the "
            "share of the class does not fit, the paper does not count cases.",
            f"Shares: all {total:,} internal fractures; those of the test part, {TEST_FRACTURES}, differ by chance.",
            "Printed 1.0 is read as 1.00; the other numbers have two digits.",
            "The detector saw no film without fracture, in training or test: specificity is one fracture against the "
            "others, no rate of false alarms.",
        ),
    )  # fmt: skip


def table_three(
    tables: Mapping[str, ClassTable],
    unit: str,
    name: str,
    title: str,
    *,
    compat: bool = False,
    printed: bool = False,
) -> Table:
    """Table III: sensitivity and specificity of several readers (or of one model) in the single-label view.

    tables: reader -> table over K + 1 outcomes, N last. compat: also the macro row as the paper has it.
    printed: also the paper's numbers, which are of surgeons with AI.
    """
    first = next(iter(tables.values()))
    outcomes = len(first.rows)
    heads = [f"{reader} {short}" for reader in tables for short in ("Se", "Sp")]
    rows: list[tuple[Cell, ...]] = []
    for place, each in enumerate(first.rows):
        counts = [t.rows[place].counts for t in tables.values()]
        pairs = [
            (t.rows[place].estimates["sensitivity"], t.rows[place].estimates["specificity"])
            for t in tables.values()
        ]
        label = f"{NO_FRACTURE} (no fracture)" if each.name == NO_FRACTURE else each.name
        rows.append((label, sum(c.n for c in counts), sum(c.positives for c in counts), *_readers(pairs)))
        if printed and each.name in TABLE_III_MEAN:
            rows.append(_printed_three(each.name, len(tables)))
    micro = [(t.micro["sensitivity"], t.micro["specificity"]) for t in tables.values()]
    macro = [(t.macro["sensitivity"], t.macro["specificity"]) for t in tables.values()]
    n = sum(t.micro_counts.positives for t in tables.values())
    over = sorted({t.macro_over["sensitivity"] for t in tables.values()})
    rows.append((f"Micro over {outcomes} outcomes", n, n, *_readers(micro)))
    if printed:
        rows.append(_printed_three("Micro", len(tables)))
    rows.append((f"Macro over the {' or '.join(map(str, over))} outcomes that occur", n, n, *_readers(macro)))
    if compat:
        zero = [
            tuple(
                macro_with_zero([r.counts for r in t.rows], m, outcomes)
                for m in ("sensitivity", "specificity")
            )
            for t in tables.values()
        ]
        rows.append((f"Macro, compat bjj2025 (K = {outcomes}, empty class 0)", n, n, *_plain(zero)))
    if printed:
        rows.append(_printed_three("Macro", len(tables)))
    notes = [
        f"Single-label view: one answer for each {unit} out of {', '.join(row.name for row in first.rows)}.",
        f"Micro sensitivity is the share of right answers. Macro specificity is over all {outcomes} outcomes, macro "
        "sensitivity over those that occur in the reference.",
    ]
    if len(tables) > 1:
        notes.append(
            "n and events are of all readers. Mean and SD (n - 1) are over readers, each reader one value."
        )
    if compat:
        notes.append(
            f"compat bjj2025 counts an outcome without cases as sensitivity 0 and divides by {outcomes}, as {BJJ2025} "
            "did; never use it for anything else."
        )
    if printed:
        notes.append(
            f"Printed: {BJJ2025}, table III, three surgeons with AI on 341 fractures; not the model alone."
        )
    columns = ["Class", "n", "Events", *heads, "Mean Se", "SD Se", "Mean Sp", "SD Sp"]
    if len(tables) == 1 and not printed:  # the mean of one is that one
        columns, rows = columns[:-4], [row[:-4] for row in rows]
    return Table(name, title, unit, tuple(columns), tuple(rows), tuple(notes))


def table_three_check() -> Table:
    """What the printed averages of table III can be, by arithmetic on its own rows; n are its 341 fractures."""
    total = sum(EXTERNAL_FRACTURES.values())
    rows: list[tuple[Cell, ...]] = []
    for place, surgeon in enumerate(SURGEONS):
        printed_micro, printed_specificity = TABLE_III["Micro"][place]
        printed_macro = TABLE_III["Macro"][place][0]
        low, high = (_follows(place, end) for end in (0, 1))
        micro = rounds_to(printed_micro)
        five = [Fraction(micro_specificity(float(end), OUTCOMES)) for end in micro]
        for what, found, text in (
            ("Micro Se from the rows and the class mix", (low.micro, high.micro), printed_micro),
            ("Macro Se, sum of four rows / 4", (low.total / 4, high.total / 4), printed_macro),
            ("Macro Se, sum of four rows / 5", (low.total / 5, high.total / 5), printed_macro),
            ("Micro Sp, 1 - (1 - printed micro Se) / 4", (five[0], five[1]), printed_specificity),
        ):
            verdict = "fits" if meets(found, text) else "does not fit"
            rows.append((f"{surgeon}: {what}", total, total, between(found), text, verdict))
        # high proportions leave few wrong calls
        false, missed = (high.false, low.false), (high.missed, low.missed)
        verdict = "possible" if false[0] <= missed[1] else "impossible with one answer per film"
        text = f"misses {between(missed, 1)}"
        rows.append(
            (
                f"{surgeon}: false calls, never more than misses",
                total,
                total,
                between(false, 1),
                text,
                verdict,
            )
        )
    return Table(
        "bjj2025-table-3-check",
        "What the printed table III can be",
        "image",
        ("What follows from the printed rows", "n", "Events", "Range", "Printed", "Verdict"),
        tuple(rows),
        (
            "Ranges hold all numbers that print as the paper's two digits.",
            "The macro rows are sums of four classes divided by five: the empty class of no fracture counted as 0.",
            "A film of one class named as another is a miss of the first and a false call of the second: with one "
            "answer per film, false calls cannot outnumber misses. Both follow from the printed rows.",
            "The printed numbers are of surgeons who saw the model's answer.",
        ),
    )


@dataclass(frozen=True)
class _Follows:
    """What the printed rows of one surgeon come to: numbers of films, and sums of sensitivities."""

    micro: Fraction
    total: Fraction
    missed: Fraction
    false: Fraction


def _follows(place: int, end: int) -> _Follows:
    """end: 0 for the lowest proportions that print so, 1 for the highest."""
    films = sum(EXTERNAL_FRACTURES.values())
    right, total, false = Fraction(0), Fraction(0), Fraction(0)
    for name, count in EXTERNAL_FRACTURES.items():
        sensitivity, specificity = (rounds_to(text)[end] for text in TABLE_III[name][place])
        right += count * sensitivity
        total += sensitivity
        false += (films - count) * (1 - specificity)
    return _Follows(right / films, total, films - right, false)


def _printed_two(name: str, blanks: int) -> list[tuple[Cell, ...]]:
    printed = TABLE_II.get(name)
    return [(f"{name}, printed", *[None] * blanks, *printed)] if printed else []


def _printed_three(name: str, readers: int) -> tuple[Cell, ...]:
    """The paper's row; its three surgeons stand in the first cell, as they are none of these readers."""
    each = "; ".join(f"{s} {se} / {sp}" for s, (se, sp) in zip(SURGEONS, TABLE_III[name], strict=True))
    mean = TABLE_III_MEAN[name]
    return (
        f"{name}, printed (Se / Sp: {each})",
        None,
        None,
        *[None] * (2 * readers),
        mean[0],
        None,
        mean[1],
        None,
    )


def _readers(pairs: Sequence[tuple[Estimate, Estimate]]) -> tuple[Cell, ...]:
    cells = [estimate for pair in pairs for estimate in pair]
    return (*cells, *_spread([(se.value, sp.value) for se, sp in pairs]))


def _plain(pairs: Sequence[tuple[float, ...]]) -> tuple[Cell, ...]:
    return (*[value for pair in pairs for value in pair], *_spread(pairs))


def _spread(pairs: Sequence[Sequence[float | None]]) -> tuple[Cell, ...]:
    """Mean and sample SD of sensitivity, then of specificity; no SD of one reader."""
    made: list[Cell] = []
    for side in (0, 1):
        values = [v for pair in pairs if (v := pair[side]) is not None]
        mean = fsum(values) / len(values) if values else None
        sd = None
        if mean is not None and len(values) > 1:
            sd = (fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
        made += [mean, sd]
    return tuple(made)
