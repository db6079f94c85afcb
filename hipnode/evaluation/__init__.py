"""Tables and figures from labels, predictions and reads: pure functions on arrays (hipnode[evaluation])."""
