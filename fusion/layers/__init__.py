"""Layers that several fusion models share."""
