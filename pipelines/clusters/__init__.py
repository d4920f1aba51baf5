"""A bridge to Dask: trials in small groups go to the workers of a cluster, which share stage one as local processes do, through claims."""
