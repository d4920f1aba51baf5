"""What stages need to train systems: folds, banks of features, one network after another, its history."""
