"""What a prediction is worth: losses that teach, metrics that judge, and intervals around them."""
