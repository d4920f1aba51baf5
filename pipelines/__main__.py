"""`python -m pipelines` is `avfusion`."""

from pipelines.cli.commands import main

main()
