"""A project of one's own, and whether a machine and a project are ready for work."""
