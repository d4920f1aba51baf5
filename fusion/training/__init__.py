"""Training a fusion model, its checkpoints, and predictions by it."""
