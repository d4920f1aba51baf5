"""A project on disk: its settings, the paths of its files, its runs and scores."""
