"""One module per stage of dvc.yaml or command, called by the commands and by nothing else."""
