"""Collects the tensors of a whole PyTorch module, as `module.state_dict()` would.

A file of `torch.save(model)` holds the module. The unpickler of `torch_files` replaces every object
with a stand-in, whose `state` holds the attributes of the object, so no code runs.
"""

from collections.abc import Iterator

from densenet_jax.errors import UnreadableWeights

# Most modules and arrays inside a module; DenseNet-264 has 3,000. A module that contains itself
# reaches the limit.
MAX_ENTRIES = 20_000
MAX_DEPTH = 50  # Levels of modules.
MAX_NAME_CHARACTERS = 200  # Longest name of one module or array.
_REMEDY = "save model.state_dict() with torch.save instead"


def is_module(value: object) -> bool:
    """Returns whether `value` stands for a PyTorch module."""
    return isinstance(_attributes(value).get("_modules"), dict)


def tensors(module: object) -> dict[str, object]:
    """Returns the parameters and the persistent buffers of a module by their full names.

    Raises UnreadableWeights if the module exceeds a limit.
    """
    found: dict[str, object] = {}
    todo, count = [("", module)], 0
    for _ in range(MAX_DEPTH):
        level: list[tuple[str, object]] = []
        for prefix, parent in todo:
            attributes = _attributes(parent)
            excluded = attributes.get("_non_persistent_buffers_set")
            for kind in ("_parameters", "_buffers", "_modules"):
                for name, value in _items(attributes.get(kind)):
                    count += 1
                    if count > MAX_ENTRIES:
                        raise UnreadableWeights(
                            f"its module has more than {MAX_ENTRIES:,} arrays and modules", _REMEDY
                        )
                    if kind == "_modules":
                        level.append((f"{prefix}{name}.", value))
                    elif value is not None and not (isinstance(excluded, set) and name in excluded):
                        found[prefix + name] = value
        if not level:
            return found
        todo = level
    raise UnreadableWeights(f"its modules are nested more than {MAX_DEPTH} deep", _REMEDY)


def _attributes(value: object) -> dict:
    state = getattr(value, "state", None)
    return state if isinstance(state, dict) else {}


def _items(items: object) -> Iterator[tuple[str, object]]:
    for name, value in items.items() if isinstance(items, dict) else ():
        if not isinstance(name, str) or len(name) > MAX_NAME_CHARACTERS:
            raise UnreadableWeights(
                f"a name in its module is not text of at most {MAX_NAME_CHARACTERS} characters",
                _REMEDY,
            )
        yield name, value
