"""Synthetic hip and pelvis radiographs with known truth, made from first principles.

A parametric patient (scene: femur, pelvis, spine, body, implants), broken or not (breaks), among bowel gas
and what else lies on a table (abdomen, litter), is projected (rays, bones, layers), exposed (beam) and
developed (looks) by film.generate; dataset writes pools, labels and dicom other formats, realism measures.

Two phantoms stand side by side. anatomy, fracture, tissue, texture, projection, display, clutter and generate
are the first: the shipped weights learned from its films, and the demo keeps them until weights trained on
the second come. All else (`hipnode phantom`, pools, the example of docs/evaluation.md) is of the second.
"""

#: stands in every report that used phantoms
DOMAIN_GAP = (
    "Phantoms are simulated: shapes, textures and display are simpler than real films', so results on them say "
    "nothing about clinical accuracy."
)
