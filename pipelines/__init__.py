"""Commands, parameters, DVC stages and reports: the only place of click, YAML, printing and exit codes."""

from cache.names import exports

_NAMES = {"predict": "pipelines.prediction.prediction"}
__all__ = list(_NAMES)
__getattr__ = exports(_NAMES)
