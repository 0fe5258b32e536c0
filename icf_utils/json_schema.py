"""JSON Schemas (2020-12) of what icf-utils prints and writes, made from the types of the results themselves.

:func:`schema_of` turns a type into a schema as :func:`icf_utils.results.to_json_value` turns its values into JSON:
dataclasses and typed dictionaries become objects, tuples and sequences arrays, paths text. The first paragraph of a
class's docstring is its description. Reads the source of modules whose annotations are imported for type checkers only.
"""

from __future__ import annotations

import ast
import inspect
import sys
import types
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, fields, is_dataclass
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bytes: {"type": "string"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    Any: {},
    object: {},
}


def schema_of(kind: Any, *, closed: bool = False, defaults: bool = False) -> Schema:
    """The schema of the JSON that values of a type become; objects that occur in it are in ``$defs``.

    With ``closed``, an object has no other properties: for settings and for tests; readers of results must accept those
    that are added later. With ``defaults``, properties that have a default value need not be there.
    Raises ``TypeError`` for a type that has no JSON form.
    """
    made = _Schemas(closed, defaults)
    found = made.of(kind)
    return {"$schema": DIALECT, **found, "$defs": dict(sorted(made.definitions.items()))}


class _Schemas:
    def __init__(self, closed: bool, defaults: bool) -> None:
        self.definitions: dict[str, Schema] = {}
        self._kinds: dict[str, Any] = {}
        self._closed, self._defaults = closed, defaults

    def of(self, kind: Any) -> Schema:
        if kind in _PLAIN:
            return dict(_PLAIN[kind])
        if is_dataclass(kind) or is_typeddict(kind):
            return self._reference(kind)
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return _any_of([self.of(argument) for argument in arguments])
        container = origin or kind
        if not inspect.isclass(container):
            raise TypeError(f"{kind!r} has no JSON form")
        return self._container(container, arguments)

    def _container(self, container: type, arguments: tuple[Any, ...]) -> Schema:
        if issubclass(container, PurePath):
            return {"type": "string"}
        if issubclass(container, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1]) if arguments else {}}
        if issubclass(container, (Sequence, AbstractSet)):
            return self._array(container, arguments)
        raise TypeError(f"{container!r} has no JSON form")

    def _array(self, container: type, arguments: tuple[Any, ...]) -> Schema:
        if container is tuple and arguments and arguments[-1] is not Ellipsis:
            items = [self.of(argument) for argument in arguments]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        return {"type": "array", "items": self.of(arguments[0]) if arguments else {}}

    def _reference(self, kind: type) -> Schema:
        name = kind.__name__
        if self._kinds.setdefault(name, kind) is not kind:
            raise TypeError(f"two types are called {name}")
        if name not in self.definitions:
            self.definitions[name] = {}  # a type may hold values of its own kind
            self.definitions[name] = self._object(kind)
        return {"$ref": f"#/$defs/{name}"}

    def _object(self, kind: type) -> Schema:
        hints = _hints(kind)
        bounds = {field.name: _bounds(field.metadata) for field in fields(kind)} if is_dataclass(kind) else {}
        names = [field.name for field in fields(kind)] if is_dataclass(kind) else list(hints)
        found: Schema = {"type": "object"}
        if kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}("):
            found["description"] = " ".join(inspect.cleandoc(kind.__doc__).split("\n\n")[0].split())
        found |= {
            "properties": {name: self.of(hints[name]) | bounds.get(name, {}) for name in names},
            "required": self._required(kind, names),
        }
        return {**found, "additionalProperties": False} if self._closed else found

    def _required(self, kind: type, names: list[str]) -> list[str]:
        if not is_dataclass(kind):
            return sorted(kind.__required_keys__, key=names.index)  # type: ignore[attr-defined]
        if not self._defaults:
            return names
        given = (field for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING)
        return [field.name for field in given]


def _bounds(metadata: Mapping[str, Any]) -> Schema:
    """The bounds of a setting (:func:`icf_utils.settings.setting`) as keywords of JSON Schema."""
    found = {
        "minimum": metadata.get("least"),
        "maximum": metadata.get("most"),
        "enum": list(metadata.get("choices", ())),
    }
    return {keyword: value for keyword, value in found.items() if value not in (None, [])}


def _any_of(choices: list[Schema]) -> Schema:
    names = [choice.get("type") for choice in choices]
    if all(isinstance(name, str) and len(choice) == 1 for name, choice in zip(names, choices, strict=True)):
        return {"type": names}
    return {"anyOf": choices}


def _hints(kind: type) -> dict[str, Any]:
    """The annotations as types, also where their names are imported for type checkers only."""
    names: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] != "builtins":
            exec(_imports_for_type_checkers(base.__module__), names)  # noqa: S102 - imports of this package's own source
    return get_type_hints(kind, localns=names)


def _imports_for_type_checkers(module: str) -> str:
    """The imports below ``if TYPE_CHECKING`` of a module of this package."""
    if not module.startswith("icf_utils"):
        return ""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    wanted = [ast.unparse(node) for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return "\n".join(text for text in wanted if text.startswith("from icf_utils"))
