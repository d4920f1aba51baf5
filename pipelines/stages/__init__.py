"""One module per stage of dvc.yaml or command."""
