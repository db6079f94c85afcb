"""The model card of a run, in Markdown: filled from what the run and its measurement recorded.

What a card says of its data depends on them: phantoms of this project, or a site's films.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.training.evaluate import as_markdown
from workers.training.thresholds import DEFINITE_SPECIFICITY, LEAST_SPECIFICITY, Calibrated, Thresholds

Parts = Mapping[str, Mapping[str, Any]]  #: of a run: run.describe


@dataclass(frozen=True)
class Words:
    """What is said of weights, by the data they come from. first_line opens the card."""

    first_line: str
    origin: str
    limits: tuple[str, ...]
    training_data: str
    picture: str  #: what one picture is called
    closing: str


def words_for(parts: Parts, phantoms: bool, data_name: str) -> Words:
    """The words for phantoms, or for a site's films. data_name: what the site calls its data."""
    train = parts["train"]
    count = train["pictures"]
    if phantoms:
        return Words(
            "**These weights were trained on synthetic phantoms only and have no clinical validity.** "
            "They show that the node works from end to end; they are not for diagnosis.",
            "Weights trained on synthetic phantoms only, without any patient image; no clinical validity.",
            (
                "Research use only. Not for diagnosis.",
                "Trained on simulated AP films of a single hip; accuracy on patients' films is not known.",
                "Occult fractures, other views and hips with implants are outside training.",
            ),
            f"{count} synthetic hip AP phantoms (workers/phantom), no patient image",
            "phantom",
            "These numbers speak of phantoms that come from the same generator as the training pictures. They say\n"
            "nothing about films of patients.",
        )
    normal = train["classes"].get("none", 0)
    limits = [
        "Research use only. Not for diagnosis.",
        f"Trained and tested on {data_name}; accuracy at another site, on other devices or patients is not known.",
        "Reads AP views. Occult fractures are not excluded. What the training films did not show is outside it.",
    ]
    if not normal:
        limits.append(
            "No training film was without a fracture: the rate of false alarms on normal hips is not known."
        )
    return Words(
        "**For research use only.** These weights have seen the films of one data set; what they do on others "
        "must be measured there before anyone relies on them.",
        f"Weights trained on {count} labelled films ({data_name}); research use only.",
        tuple(limits),
        f"{count} labelled films, {data_name}",
        "film",
        "These numbers hold for films like those of the test part. Measure your own with `hipnode evaluate`.",
    )


@dataclass(frozen=True)
class CardFacts:
    """All a card is filled from.

    title: id and version; facts: of the checkpoint (recipe, start, seed, best, ...); parts: as used here
    numbers: of the test part, None without one; looks: how often that part was looked at with this run
    errors: calibration error before and after, printed; notes: Markdown for the end
    """

    title: str
    facts: Mapping[str, Any]
    parts: Parts
    words: Words
    chosen: Thresholds
    definite: Mapping[str, float]
    calibrated: Calibrated
    numbers: dict[str, Any] | None
    looks: int
    date: str
    errors: str = ""
    notes: str = ""


def card_text(c: CardFacts) -> str:
    """The whole card; its first line says what the weights are not."""
    sections = [
        c.words.first_line,
        f"# {c.title}",
        _table(_rows(c)),
        f"## Data\n\n{_data(c.parts)}",
        f"## Thresholds\n\n{_thresholds(c)}",
        f"## Calibration\n\n{_calibration(c)}",
        f"## Test\n\n{_test(c)}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in c.words.limits),
        c.notes.strip(),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items())])


def _rows(c: CardFacts) -> dict[str, str]:
    facts, recipe = c.facts, c.facts["recipe"]
    seen = facts["epoch"] * facts["epoch_images"] + facts["drawn"]
    planned = facts["total_images"]
    end = "to its end" if seen >= planned else f"of {planned} planned"
    best = facts.get("best")
    weights = "averaged weights"
    if best:
        weights += f" of epoch {best['epoch']}, which had the lowest validation loss ({best['loss']:.3f})"
    size = recipe["input_size"]
    return {
        "task": "boxes and four classes of hip fracture on AP films: VF valgus-impacted neck, DF displaced neck, "
        "SF stable and UF unstable intertrochanteric",
        "network": f"DAMO-YOLO-T, {size} x {size} input, begun from {facts.get('start', 'random weights')}",
        "recipe": f"`{recipe['name']}`: {recipe['optimiser']}, batch {recipe['batch']}, {_epochs(recipe)}"
        f"{seen} pictures seen {end}, seed {facts['seed']}; {weights}",
        "scores": "calibrated, see below"
        if c.calibrated.fitted
        else "not calibrated: a score is no probability",
        "made": c.date,
    }


def _epochs(recipe: Mapping[str, Any]) -> str:
    return f"{recipe['epochs']:g} epochs, " if recipe["epochs"] else ""


def _data(parts: Parts) -> str:
    lines = [
        "| part | pictures | patients | classes | SHA-256 of pictures and labels |",
        "| --- | --- | --- | --- | --- |",
    ]
    for part, told in parts.items():
        classes = ", ".join(f"{name} {count}" for name, count in sorted(told["classes"].items()))
        owners = str(told["patients"]) if told["patients_known"] else "not named"
        lines.append(f"| {part} | {told['pictures']} | {owners} | {classes} | `{told['sha256'][:16]}` |")
    said = "Parts share no patient."
    if not all(told["patients_known"] for told in parts.values()):
        said = (
            "The data do not name every patient; a picture of an unnamed one counts as a patient of its own, so that\n"
            "a patient may be in two parts."
        )
    return "\n".join([*lines, "", said])


def _thresholds(c: CardFacts) -> str:
    chosen = c.chosen
    taus = ", ".join(f"{k} {v:g}" for k, v in chosen.by_class.items())
    if chosen.specificity is None:
        rule = (
            "Every validation picture has a fracture, so each class has the threshold with the largest Youden index\n"
            f"against the other classes. On the {chosen.cases} validation pictures some class fires on "
            f"{chosen.sensitivity:.3f}."
        )
    else:
        rule = (
            "Each class may fire on the same share of validation pictures without a fracture. The share is the one\n"
            f"with the largest Youden index for any fracture at a specificity of at least {LEAST_SPECIFICITY:g}. "
            f"On the {chosen.cases}\nvalidation pictures that gave sensitivity {chosen.sensitivity:.3f} at specificity "
            f"{chosen.specificity:.3f}; they were chosen there, so new films will do worse."
        )
    if c.definite:
        levels = ", ".join(f"{k} {v:g}" for k, v in c.definite.items())
        rule += (
            f"\n\nA finding is called definite from {levels}, and possible below: the lowest score at which the class\n"
            f"has a specificity of at least {DEFINITE_SPECIFICITY:g} on validation, and not under the threshold above."
        )
    else:
        rule += "\n\nThere is no second threshold: the validation part is too small for one."
    return f"{taus}. {rule}"


def _calibration(c: CardFacts) -> str:
    fitted = c.calibrated.fitted
    if fitted is None:
        return f"None: {c.calibrated.why_not}."
    return (
        f"{fitted.method.capitalize()}, one map for all classes, fitted on {fitted.n} validation answers "
        f"({fitted.positives} positive).\nIt turns the score of a finding into the certainty that results tell; "
        f"classes fire by score. {c.errors}"
    ).rstrip()


def _test(c: CardFacts) -> str:
    if c.numbers is None:
        return "Not tested: the data had no test part. Nothing is known of its accuracy."
    told = c.parts["test"]
    times = (
        "once" if c.looks == 1 else f"for the {c.looks}. time; numbers looked at before choosing are too good"
    )
    return (
        f"{told['pictures']} {c.words.picture}s that were in no other part, looked at {times}. 95 % intervals (shares: "
        "Wilson).\nA class counts as answered when it is the best finding of the picture; specificity of a class is\n"
        "over all other pictures. IoU is of the best finding with the true box.\n\n"
        f"{as_markdown(c.numbers)}\n\n{c.words.closing}"
    )
