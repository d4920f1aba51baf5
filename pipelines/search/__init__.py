"""The search for settings of a system: spaces, the trial, its records and results, and one file for each engine that runs trials."""

ENGINES = {
    "optuna": "pipelines.search.optuna_engine:run",
    "ray": "pipelines.search.ray_engine:run",
}
"""Name of an engine, which is also that of its extra → the function that runs the trials of a stage."""
