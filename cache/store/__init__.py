"""The feature store: Zarr groups under a fingerprint, commit records, receipts, locks, and what checks them."""
