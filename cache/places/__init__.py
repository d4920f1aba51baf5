"""Folders that hold files: local ones and URLs behind one protocol."""
