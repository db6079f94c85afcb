"""DAMO-YOLO-T in torch."""

from workers.detector.damoyolo.head import HeadOutputs, boxes_of
from workers.detector.damoyolo.model import DamoYolo, damoyolo_t

__all__ = ["DamoYolo", "HeadOutputs", "boxes_of", "damoyolo_t"]
