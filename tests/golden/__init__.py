"""Figures that DAMO-YOLO-T gave for seeded weights and inputs, and how to make those again.

STATE_DICT.tsv            every key of the checkpoint: shape, type, form it occurs in
golden_nc4_seed1.npz      outputs, intermediate points, NMS and training figures; four classes, seed 1
golden_train_misc.json    learning rates, EMA momenta, one distillation loss
seeded.py                 the weights and inputs those figures belong to

r/                        what R's statistics packages say about data with ties, for the evaluation; made by
                          r/evaluation.R, which names the Debian packages

The figures of the network were measured by running tinyvision/DAMO-YOLO (commit 319572e, Apache-2.0).
"""
