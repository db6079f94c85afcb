"""Tables and figures from labels and predictions. Pure functions: arrays in, small records out.

No torch, no file, no clock, no printing; a seed is an argument. A proportion of nothing (0/0) has the
value None. scipy, statsmodels, scikit-learn and pandas come with the extra `hipnode[evaluation]`; the
node itself never imports this room.
"""
