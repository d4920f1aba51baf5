"""Sections of params.yaml that stand for longer ones."""
