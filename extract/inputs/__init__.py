"""Inputs: one file per kind of item that a backbone reads, with everything about it: its medium, its tensors, its version."""
