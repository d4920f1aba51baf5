"""Commands of the stages: from a corpus to features, from features to a report."""
