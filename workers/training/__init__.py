"""Training of the detector: assignment, losses, loop, evaluation, packages."""
