"""What a person sees: progress, tables, one sentence per error; everything escaped."""
