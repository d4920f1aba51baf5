"""Features in memory or mapped, cut into windows and batches, reduced and normalised."""
