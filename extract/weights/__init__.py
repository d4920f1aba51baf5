"""Where weights come from, how they are fetched, and proof that they are the right ones."""
