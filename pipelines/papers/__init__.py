"""Settings and tables of papers, and their reproduction."""
