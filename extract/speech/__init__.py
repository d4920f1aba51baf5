"""Words from sound: recognition, and the punctuation that recognisers leave out."""
