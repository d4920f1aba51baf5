"""A corpus that is drawn and spoken by this program, in the layout of Aff-Wild2."""
