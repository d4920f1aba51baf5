"""The manifest, one form for every corpus, and the folds that divide it."""
