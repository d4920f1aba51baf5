"""The `zarr.json` files of a store: of its root, of each fingerprint's group with the recipe, and of the arrays."""

from __future__ import annotations

import json
from typing import Any, Literal

from cache.documents.documents import DIGEST, Number, Pair, Part, RecipePart, Values, check_document, parse_json, sign
from cache.places.folders import Where
from cache.recipe import Recipe
from cache.store.records import VERSION, check_version

DIMENSIONS: list[str | None] = ["frame", "embedding"]
_RECIPE = "avfusion_spec"
_STORE = "avfusion_store"


class GroupNode(Part):
    """The `zarr.json` of a group."""

    zarr_format: Literal[3]
    node_type: Literal["group"]
    attributes: Values
    consolidated_metadata: Any = None


class _ChunkShape(Part):
    chunk_shape: list[Number]


class _ChunkGrid(Part):
    name: Literal["regular"]
    configuration: _ChunkShape


class _Separator(Part):
    separator: Literal["/", "."]


class _KeyEncoding(Part):
    name: Literal["default", "v2"]
    configuration: _Separator | None = None


class _Codec(Part):
    name: str
    configuration: Values

    def check(self) -> None:
        """Check the byte order; zarr checks the configuration of other codecs."""
        if self.name == "bytes" and self.configuration != {"endian": "little"}:
            raise ValueError(f"codec 'bytes' with {self.configuration}")


class ArrayNode(Part):
    """The `zarr.json` of a (T, D) array, by us or rewritten by others with different codecs or chunks."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: Pair
    data_type: Literal["float16", "float32"]
    chunk_grid: _ChunkGrid
    chunk_key_encoding: _KeyEncoding
    fill_value: float
    codecs: list[_Codec]
    attributes: Values
    dimension_names: list[str | None] | None = None
    storage_transformers: list[Any] | None = None

    def check(self) -> None:
        """Check that it can be a (T, D) array of ours."""
        rows = self.chunk_grid.configuration.chunk_shape
        if len(rows) != 2 or min(rows) < 1 or self.fill_value != 0 or self.storage_transformers or not self.codecs:
            raise ValueError(f"chunks of {rows}, filled with {self.fill_value}")
        if self.dimension_names not in (None, [None, None], DIMENSIONS):
            raise ValueError(f"dimensions {self.dimension_names}, expected {DIMENSIONS}")


def parse_node(content: bytes | None, kind: type[GroupNode] | type[ArrayNode]) -> dict[str, Any] | None:
    """A `zarr.json`, or None if it is absent or damaged."""
    try:
        document: dict[str, Any] = parse_json(content or b"")
        check_document(document, kind)
    except ValueError:
        return None
    return document


def format_root() -> bytes:
    """The `zarr.json` of a new store."""
    return _format_group(sign({_STORE: VERSION}))


def format_recipe(recipe: Recipe) -> bytes:
    """The `zarr.json` of a fingerprint's group."""
    return _format_group({_RECIPE: recipe.to_document()})


def find_layout(content: bytes | None, where: Where) -> int | None:
    """Version of a store from its root's `zarr.json`, None if that is absent or damaged.

    Raises:
        VersionError: if a newer version of avfusion wrote it.
    """
    metadata = parse_node(content, GroupNode)
    if metadata is None:
        return None
    attributes: dict[str, Any] = metadata.get("attributes", {})
    version = attributes.get(_STORE)
    digest = sign({_STORE: version})[DIGEST]
    if attributes.get(DIGEST, digest) != digest or digest in [v for k, v in attributes.items() if k != DIGEST]:
        return None  # also if the key of the digest is damaged
    check_version(str(where), version)
    return version if isinstance(version, int) else None


def find_recipe(content: bytes | None) -> Recipe | None:
    """The recipe in the `zarr.json` of a fingerprint's group, None if it is absent or damaged."""
    document = ((parse_node(content, GroupNode) or {}).get("attributes") or {}).get(_RECIPE)
    try:
        return check_document(document, RecipePart).recipe
    except ValueError:
        return None


def _format_group(attributes: dict[str, Any]) -> bytes:
    """The `zarr.json` of a group."""
    document = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    return json.dumps(document, indent=1, ensure_ascii=False).encode()
