"""What a run resumes from.

``format`` writes a checkpoint as files, ``tensor_tree`` its content as tensors and JSON. ``trainables`` says which
weights are in it, ``random_states`` how generators are. ``resume`` saves and restores what Lightning does not, and
``compatibility`` tells whether the run that resumes is the one that was interrupted.
"""
