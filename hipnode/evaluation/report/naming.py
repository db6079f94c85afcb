"""How the sections of an evaluation call things: questions, conditions, parts of a document. Pure."""

from dataclasses import dataclass

from hipnode.evaluation.record import ANY, CaseFacts, ModelResult, Point, Question
from hipnode.evaluation.report.document import Cell
from hipnode.evaluation.report.words import slug
from hipnode.evaluation.statistics.readers import AI, NO_AI

CONDITION_WORDS = {NO_AI: "without AI", AI: "with AI"}
CALIBRATION_WORDS = {
    "as given": "as given",
    "temperature": "temperature",
    "platt": "Platt",
    "isotonic": "isotonic",
}
CHOSEN_WORDS = {
    "given": "given before",
    "package": "from the package",
    "validation": "chosen on validation cases",
    "same cases": "chosen on these cases, so too good",
    "convention": "by convention",
}
COUNT_COLUMNS = ("TP", "FN", "FP", "TN")


@dataclass(frozen=True)
class Naming:
    """The words and names of one evaluation.

    ending: of names of parts, so that two models' parts are apart; of: of titles, for the same reason
    """

    facts: CaseFacts
    ending: str = ""
    of: str = ""

    @property
    def unit(self) -> str:
        """What is counted: hip, image or patient."""
        return self.facts.unit

    def question(self, name: str) -> str:
        """The question as a reader sees it; with one class only, any fracture is that class."""
        if name != ANY:
            return name
        return "any fracture" if len(self.facts.classes) > 1 else self.facts.classes[0]

    def questions(self, model: ModelResult) -> tuple[Question, ...]:
        """Any fracture and each class; with one class they are one question, asked once."""
        return (model.any_fracture, *model.classes) if len(self.facts.classes) > 1 else (model.any_fracture,)

    def part(self, name: str) -> str:
        """The unique name of a table or figure of this model."""
        return f"{name}{self.ending}"

    def title(self, title: str) -> str:
        """The title of a part, with the model where there are several."""
        return f"{title} ({self.of})" if self.of else title

    def class_part(self, name: str, class_name: str) -> str:
        """The unique name of a part about one class: its place among the classes keeps odd names apart."""
        if class_name == ANY:
            return self.part(f"{name}-any")
        place = self.facts.classes.index(class_name) + 1
        return self.part(f"{name}-{place}-{slug(class_name)}")


CLASS_WORDS = {
    "DF": "DF, displaced neck fracture",
    "VF": "VF, valgus-impacted neck fracture",
    "SF": "SF, stable trochanteric fracture",
    "UF": "UF, unstable trochanteric fracture",
}
GROUP_WORDS = {"y_class": "class in the reference", "hip": "side"}


def group_words(column: str) -> str:
    """A column of the labels as a reader sees it: "image_quality" is image quality."""
    return GROUP_WORDS.get(column, column.replace("_", " "))


def counts_of(point: Point) -> tuple[Cell, ...]:
    """TP, FN, FP, TN of a point, as COUNT_COLUMNS heads them."""
    return (point.counts.tp, point.counts.fn, point.counts.fp, point.counts.tn)
