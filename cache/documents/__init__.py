"""The one door for what the pipeline writes for itself: JSON documents and arrays, typed and under a digest."""
