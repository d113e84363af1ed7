"""Whole modules in files of `torch.save`: limits. `test_torch_checkpoints` loads such files."""

import types

import pytest

from densenet_jax import torch_modules
from densenet_jax.errors import UnreadableWeights


def module(parameters=(), modules=(), **attributes):
    """Returns what the unpickler builds for a module."""
    state = {"_parameters": dict(parameters), "_buffers": {}, "_modules": dict(modules)}
    return types.SimpleNamespace(state=state | attributes)


def nested(levels):
    made = module({"weight": 1})
    for _ in range(levels - 1):
        made = module(modules={"inner": made})
    return made


def refuse(made, message):
    with pytest.raises(UnreadableWeights, match=message) as caught:
        torch_modules.tensors(made)
    assert caught.value.remedy == "save model.state_dict() with torch.save instead"


def test_names_are_those_of_a_state_dict():
    inner = module(
        {"weight": 1, "bias": None},
        _buffers={"running_mean": 2, "positions": 3},
        _non_persistent_buffers_set={"positions"},
    )
    made = module({"scale": 4}, {"conv": inner, "again": inner, "absent": None})
    assert torch_modules.tensors(made) == {
        **{"scale": 4, "conv.weight": 1, "conv.running_mean": 2},
        **{"again.weight": 1, "again.running_mean": 2},
    }


def test_entries_of_a_module(monkeypatch):
    made = module({"a": 1, "b": 2}, {"c": module({"d": 3})})
    monkeypatch.setattr(torch_modules, "MAX_ENTRIES", 4)
    assert torch_modules.tensors(made) == {"a": 1, "b": 2, "c.d": 3}
    monkeypatch.setattr(torch_modules, "MAX_ENTRIES", 3)
    refuse(made, "its module has more than 3 arrays and modules")


def test_modules_that_are_shared_many_times():
    made = module({"weight": 1})
    for _ in range(40):
        made = module(modules={"a": made, "b": made})
    refuse(made, "its module has more than 20,000 arrays and modules")


def test_depth_of_modules():
    assert len(torch_modules.tensors(nested(torch_modules.MAX_DEPTH))) == 1
    refuse(nested(torch_modules.MAX_DEPTH + 1), "its modules are nested more than 50 deep")
    cyclic = module()
    cyclic.state["_modules"]["self"] = cyclic
    refuse(cyclic, "its modules are nested more than 50 deep")


def test_names_in_a_module():
    longest = "a" * torch_modules.MAX_NAME_CHARACTERS
    assert torch_modules.tensors(module({longest: 1})) == {longest: 1}
    for name in (longest + "a", 7, None):
        refuse(module({name: 1}), "is not text of at most 200 characters")


@pytest.mark.parametrize("value", [None, {}, 7, types.SimpleNamespace(state=[1])])
def test_other_objects_are_no_modules(value):
    assert not torch_modules.is_module(value)
    assert torch_modules.tensors(value) == {}


def test_damaged_modules():
    made = types.SimpleNamespace(state={"_modules": {}, "_parameters": 7, "_buffers": [1]})
    assert torch_modules.tensors(made) == {}
