"""Commands, parameters, DVC stages and reports: the only place of click, YAML, printing and exit codes."""
