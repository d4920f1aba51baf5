"""Inputs: one file per kind of item that a backbone reads, with its medium, its tensors and its version."""
