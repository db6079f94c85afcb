"""The door to the detector: torch is imported behind it, when a detector is loaded."""
