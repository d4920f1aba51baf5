"""The feature store and the basic types shared by both stages: trials, clocks, recipes, windows, folds.

Imports numpy, zarr, dask.array, h5py and scikit-learn, never torch, media libraries or click.
"""
