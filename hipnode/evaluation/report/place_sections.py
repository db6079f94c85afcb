"""Where the model looked, what its scores mean, and in which groups it differs, as sections. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from hipnode.evaluation.record import ANY, Calibration, ClassPlaces, Localisation, ModelResult, StratumRow
from hipnode.evaluation.report.charts import ForestRow, Reliability, forest_figures, reliability_figure
from hipnode.evaluation.report.curves import froc_figure
from hipnode.evaluation.report.document import Cell, Figure, Section, Table
from hipnode.evaluation.report.naming import CALIBRATION_WORDS, Naming, group_words
from hipnode.evaluation.report.words import count, listed, plural
from hipnode.evaluation.statistics.localisation import PIXEL_METRICS

BINS = 15  # of the printed figures, as for ECE; both numbers of bins and both spacings are in the CSV


def place_section(model: ModelResult, naming: Naming) -> Section:
    """Boxes: per detection, in pixels, AP and FROC; with the reason where there is nothing to say."""
    found = model.localisation
    parts: list[Table | Figure] = []
    if found.classes:
        parts = [
            _overlap_table(found, naming),
            _precision_table(found, naming),
            *_pixel_tables(found, naming),
        ]
    if found.froc is not None and found.froc.lesions:
        parts.append(
            froc_figure(naming.part("froc"), naming.title("FROC"), [("all classes", found.froc)], naming.unit)
        )
        parts.append(_froc_table(found, naming))
    others = _other_places(found, naming)
    parts += [others] if others is not None else []
    words = list(found.says)
    if found.classes:
        words.append(
            f"Over {count(found.units, naming.unit)}. Two things are called IoU in published tables; both are here: of "
            "matched boxes (per detection), and of the boxes' areas counted in pixels. They are not comparable."
        )
    return Section(naming.title("Localisation: was it the right place?"), tuple(words), tuple(parts))


def calibration_section(model: ModelResult, naming: Naming) -> Section:
    """How well scores are probabilities, before and after calibration."""
    rows: list[tuple[Cell, ...]] = []
    figures: list[Figure] = []
    words: list[str] = []
    fitted: set[str] = set()
    for question in naming.questions(model):
        label = naming.question(question.name)
        panels = []
        unfit: dict[str, list[str]] = {}
        for made in question.calibration:
            if made.says:
                unfit.setdefault(made.says, []).append(CALIBRATION_WORDS[made.name])
                continue
            fitted |= {made.fitted_on} if made.fitted_on else set()
            rows.append(_calibration_row(label, made))
            if made.ece is not None and BINS in made.bins_width:
                panels.append(Reliability(CALIBRATION_WORDS[made.name], made.bins_width[BINS], made.ece))
        words += [f"{label}, {listed(methods)}: {says}" for says, methods in unfit.items()]
        if panels:
            name = naming.class_part("reliability", question.name)
            title, first = naming.title(f"Reliability, {label}"), not figures
            figures.append(reliability_figure(name, title, panels, naming.unit, explained=first))
    if "cross-fitted" in fitted:
        words.append(
            "There are no validation cases: each calibration was fitted on four fifths of the patients and judged on "
            "the rest, five times over. It shows what calibrating could do; there is no calibrator to store."
        )
    elif fitted:
        words.append("Calibrations were fitted on the validation cases and are judged here on others.")
    words.append(
        "Show a calibrated probability or a band to clinicians, never a raw score as per cent certainty."
    )
    table = Table(
        naming.part("calibration"), naming.title("Calibration before and after"), naming.unit,
        ("class", "scores", "ECE", "MCE", "Brier", "log loss", "intercept", "slope", "in the large"), tuple(rows),
        ("ECE and MCE over 15 bins of equal width. Slope 1 and intercept 0 are ideal; a slope below 1 means scores too "
         "extreme, in the large above 0 means scores too low on the whole.",),
    )  # fmt: skip
    bins = _bins_table(model, naming)
    return Section(
        naming.title("Calibration: does a score mean what it says?"),
        tuple(words),
        (table, *_with_bins(figures, bins)),
    )


def strata_section(model: ModelResult, naming: Naming) -> Section:
    """Sensitivity and specificity in each group, and which stand apart."""
    strata = model.strata
    words = list(strata.says)
    if not strata.rows:
        return Section(naming.title("Groups of cases"), (*words, "The labels name no groups."), ())
    flagged = sum(len(row.flagged) for row in strata.rows)
    words.append(
        f"{count(strata.intervals)} intervals were held against the overall value; {count(flagged)} of them leave it "
        f"out. By chance alone about {strata.intervals / 20:.0f} would."
    )
    figures: list[Figure] = []
    for question in naming.questions(model):
        rows = [row for row in strata.rows if row.question == question.name]
        overall = (question.used.estimates["sensitivity"], question.used.estimates["specificity"])
        drawn = [
            ForestRow(group_words(row.column), row.value, (row.sensitivity, row.specificity),
                      ("sensitivity" in row.flagged, "specificity" in row.flagged))
            for row in rows
        ]  # fmt: skip
        name, label = naming.class_part("strata", question.name), naming.question(question.name)
        title = naming.title(f"{_capital(label)} by group")
        if any(each.low is not None for row in drawn for each in row.estimates):
            figures += forest_figures(
                name,
                title,
                ("Sensitivity", "Specificity"),
                overall,
                drawn,
                naming.unit,
                explained=not figures,
            )
    anything = [row for row in strata.rows if row.question == ANY]
    apart = [row for row in strata.rows if row.question != ANY and row.flagged]
    tables = [
        _strata_table("groups", f"{_capital(naming.question(ANY))} by group", anything, naming, one=True)
    ]
    if apart and len(naming.facts.classes) > 1:
        tables.append(
            _strata_table("groups-apart", "Classes in groups that stand apart", apart, naming, one=False)
        )
    every = _strata_table("groups-all", "All classes by group", strata.rows, naming, one=False)
    return Section(naming.title("Groups of cases"), tuple(words), (*tables, *_with_bins(figures, every)))


def _overlap_table(found: Localisation, naming: Naming) -> Table:
    rows = tuple(
        (naming.question(c.name), c.lesions, c.right_place, c.right_centre, c.overlap.iou_matched,
         c.overlap.iou_matched_sd, c.overlap.dice_matched, c.overlap.dice_matched_sd, c.overlap.iou_all,
         c.overlap.dice_all)
        for c in found.classes
    )  # fmt: skip
    columns = ("class", "lesions", "right place", "centre inside", "IoU", "SD", "Dice", "SD of Dice", "IoU, misses 0",
               "Dice, misses 0")  # fmt: skip
    notes = (
        "Right place: right class and IoU of at least 0.5. Centre inside: right class and the mark's centre in the "
        "reference box. IoU and Dice over the matched lesions, then over all with a miss as 0. Marks that fired, "
        "matched one to one.",
    )
    return Table(naming.part("per-detection"), naming.title("Per detection"), "lesion", columns, rows, notes)


def _precision_table(found: Localisation, naming: Naming) -> Table:
    rows = tuple((c.name, c.lesions, c.ap50, c.ap50_95) for c in found.classes if c.name != ANY)
    notes = ("COCO average precision over all candidates, also those below the threshold in use.",)
    columns = ("class", "lesions", "AP50", "AP50:95")
    return Table(
        naming.part("average-precision"), naming.title("Average precision"), "lesion", columns, rows, notes
    )


def _pixel_tables(found: Localisation, naming: Naming) -> list[Table]:
    tables = []
    head = ("class", "accuracy", "sensitivity", "specificity", "IoU", "Dice")
    for kind, title in (("pooled", "pooled over all"), ("per_image", "mean over those that show the class")):
        rows = tuple(
            (naming.question(c.name), *(_pixels(c, kind)[m] for m in PIXEL_METRICS))
            for c in found.classes
            if c.pixels is not None
        )
        if rows:
            note = (
                "Areas of boxes, counted in pixels. Accuracy and specificity are near 1 wherever boxes are small: they "
                f"are no per-case numbers. n counts {plural(naming.unit)}."
            )
            name = naming.part(f"pixels-{kind.replace('_', '-')}")
            tables.append(Table(name, naming.title(f"Box masks, {title}"), "pixel", head, rows, (note,)))
    return tables


def _pixels(places: ClassPlaces, kind: str) -> dict[str, Cell]:
    table = places.pixels
    chosen = {} if table is None else table.pooled if kind == "pooled" else table.per_image
    return dict(chosen)


def _froc_table(found: Localisation, naming: Naming) -> Table:
    rows = tuple((f"{rate:g}", estimate) for rate, estimate in found.froc_at.items())
    columns = (f"false marks per {naming.unit}, at most", "lesions found")
    return Table(naming.part("froc-rates"), naming.title("FROC at fixed rates"), "lesion", columns, rows)


def _other_places(found: Localisation, naming: Naming) -> Table | None:
    rows: list[tuple[Cell, ...]] = []
    if found.jaccard is not None:
        j = found.jaccard
        rows += [("Jaccard (IoU), mean", j.mean), ("Jaccard (IoU), SD", j.sd)]
        rows += [("share above 0.5", j.above_half), ("share above 0.7", j.above_seven_tenths)]
    if found.peaks is not None:
        rows.append((f"heat map's peak within {found.peak_radius_px:g} pixels of the point", found.peaks))
    if not rows:
        return None
    note = "Jaccard: best overlap of any mark that fired with each reference box whatever its class; a miss is 0."
    title = naming.title("Any mark, whatever its class")
    return Table(naming.part("any-mark"), title, "lesion", ("what", "value"), tuple(rows), (note,))


def _calibration_row(label: str, made: Calibration) -> tuple[Cell, ...]:
    line = made.line
    three = (None,) * 3 if line is None else (line.intercept, line.slope, line.in_the_large)
    return (label, CALIBRATION_WORDS[made.name], made.ece, made.mce, made.brier, made.log_loss, *three)


def _bins_table(model: ModelResult, naming: Naming) -> Table:
    rows = tuple(
        (naming.question(q.name), CALIBRATION_WORDS[made.name], spacing, number_, b.low, b.high, b.n, b.positives,
         b.mean_score, b.share_positive)
        for q in naming.questions(model)
        for made in q.calibration
        for spacing, all_bins in (("equal width", made.bins_width), ("equal count", made.bins_count))
        for number_, bins in all_bins.items()
        for b in bins
    )  # fmt: skip
    columns = (
        "class",
        "scores",
        "bins",
        "number",
        "from",
        "to",
        "n",
        "positives",
        "mean score",
        "share positive",
    )
    return Table(
        naming.part("reliability-all"), naming.title("All reliability bins"), naming.unit, columns, rows
    )


def _strata_table(name: str, title: str, rows: Sequence[StratumRow], naming: Naming, *, one: bool) -> Table:
    """one: all rows are about any fracture, which the title says."""
    made = tuple(
        (
            group_words(row.column), row.value, *(() if one else (naming.question(row.question),)), row.n, row.events,
            row.sensitivity, row.specificity, listed(row.flagged),
        )
        for row in rows
    )  # fmt: skip
    columns = ("group", "value", *(() if one else ("class",)), "n", "positives", "sensitivity", "specificity")
    notes = (
        "Stands apart: the interval leaves out the value over all cases. A group too small to stand apart is not "
        "thereby shown to be like the others.",
    )
    return Table(naming.part(name), naming.title(title), naming.unit, (*columns, "stands apart"), made, notes)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _with_bins(figures: list[Figure], table: Table) -> list[Figure]:
    """The last figure carries the full table as a file, which is too long to print."""
    return [*figures[:-1], replace(figures[-1], counts=(*figures[-1].counts, table))] if figures else []
