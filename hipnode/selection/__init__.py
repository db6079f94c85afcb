"""Which images are ours, and why not: header facts, the rules of selection.toml, and decisions."""

from hipnode.selection.deciding import Decision, Selection
from hipnode.selection.facts import Code, Facts, facts_of
from hipnode.selection.header import Vote
from hipnode.selection.studies import Explanation, StudySelection, explain, select_films, select_study

__all__ = [
    "Code",
    "Decision",
    "Explanation",
    "Facts",
    "Selection",
    "StudySelection",
    "Vote",
    "explain",
    "facts_of",
    "select_films",
    "select_study",
]
