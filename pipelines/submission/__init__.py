"""Files that are handed in to challenges: predictions of several runs, in the organisers' form, and checks of such files."""
