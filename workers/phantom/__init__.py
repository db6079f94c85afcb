"""Synthetic hip AP radiographs with known truth, made from first principles.

A parametric femur and pelvis (anatomy), broken or not (fracture), in soft tissue and clutter, are
projected through Beer-Lambert (projection) and developed (display) by generate.generate; dataset writes
pools of them, dicom makes DX objects, demo the studies of the demo. They say nothing about patients.
"""
