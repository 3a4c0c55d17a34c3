"""The run folder: what a run leaves behind, and the proof that it can be used."""
