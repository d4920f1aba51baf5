"""Stage one: media → crops → embeddings. Imports `cache`, torch and media libraries."""

from cache.names import exports

_NAMES = {
    "CropConfig": "extract.faces.crops",
    "Embedded": "extract.engine.one_file",
    "embed": "extract.engine.one_file",
    "load_backbone": "extract.backbones.contract",
}
__all__ = list(_NAMES)
__getattr__ = exports(_NAMES)
