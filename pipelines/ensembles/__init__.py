"""Networks that answer together: those of several runs, folds, seeds and models, found, chosen and averaged."""
