"""Stage one: media → crops → embeddings. Imports `cache`, torch and media libraries."""
