"""The folder that others use: write it, load it, check that it reloads, answer with it."""
