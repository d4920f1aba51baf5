"""What finished commands left: where nothing has changed since, the same command ends without the libraries that it would need."""
