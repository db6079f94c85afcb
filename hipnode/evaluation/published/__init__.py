"""The published tables of the four reference papers for one's own cases, beside what the papers print. Pure.

`sections` makes them of a whole evaluation; the functions of `bjj2025` and `others` make them one by one.
"""

from hipnode.evaluation.published.assemble import sections

__all__ = ["sections"]
