"""The papers' settings and tables, and how they are reproduced."""
