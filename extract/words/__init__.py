"""Transcripts in every format, and their words on the label clock."""
