"""A project on disk: its settings, where its files lie, and what its runs and scores are made of."""
