"""File formats that features are imported from and exported to."""
