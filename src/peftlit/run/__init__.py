"""The life of a run: its folder, what is written at its start, its history, predictions, plots, and its end."""
