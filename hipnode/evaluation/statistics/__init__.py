"""The numbers themselves: arrays in, values with their intervals out. No table, no report. Pure."""
