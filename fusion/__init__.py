"""Stage two: cached embeddings → windows → predictions. Imports `cache` and torch, never `extract`."""
