"""Options that several commands have, and the kinds of values that they take."""
