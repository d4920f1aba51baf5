"""The feature store and the plain facts that both stages share: trials, clocks, specs, windows, folds.

Imports numpy, zarr, dask.array, h5py and scikit-learn, never torch, media libraries or click.
"""
