"""`python -m pipelines` is `avfusion`."""

from pipelines.cli import main

main()
