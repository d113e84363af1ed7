"""Private names of JAX: one module uses them, and the installed JAX still has them."""

import ast
import importlib
import pkgutil

import jax
import jax.extend.core
import pytest
import small

from densenet_jax import jax_private

PRIVATE = "densenet_jax/jax_private.py"
MODULES = sorted(
    path
    for package in ("densenet_jax", "experiments", "launch")
    for path in (small.ROOT / package).rglob("*.py")
)
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


def moved(name):
    return f"jax {jax.__version__} has moved {name}: find its new place, and correct {PRIVATE}"


def private_uses(source):
    """Returns the dotted names in `source` that have a part `_src`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    return {name for name in names if "_src" in name.split(".")}


def test_uses_are_found_however_they_are_written():
    source = (
        "import jax._src.core\nfrom jax._src import mesh\nfrom jax import _src\njax._src.core.f()"
    )
    assert private_uses(source) == {
        *("jax._src", "jax._src.core", "jax._src.core.f", "jax._src.mesh"),
    }


def test_one_module_uses_private_names():
    found = {
        str(path.relative_to(small.ROOT)): uses
        for path in MODULES
        if (uses := private_uses(path.read_text()))
    }
    assert list(found) == [PRIVATE], f"{found}: move these uses to {PRIVATE}"


@pytest.mark.parametrize(
    "name",
    [
        "jax._src.core",
        "jax._src.distributed.global_state.client",
        "jax._src.clusters.ClusterEnv",
        "jax._src.clusters.ClusterEnv.auto_detect_unset_distributed_params",
        "jax.extend.core.ClosedJaxpr",
    ],
)
def test_jax_has_the_name(name):
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{moved(name)} ({error})")


def test_slurm_is_detected(monkeypatch):
    for variable, value in SLURM.items():
        monkeypatch.setenv(variable, value)
    name = "ClusterEnv.auto_detect_unset_distributed_params"
    try:
        found = jax_private.detect_cluster(None)
    except (ImportError, AttributeError, TypeError) as error:
        pytest.fail(f"{moved(name)} ({error})")
    assert found.address.startswith("node1:")
    assert found[1:] == (2, 1, [0]), moved(name)
    assert jax_private.detect_cluster([0, 1]).devices == [0, 1]


def test_jax2onnx_finds_closed_jaxpr(monkeypatch):
    core = importlib.import_module("jax._src.core")
    monkeypatch.setattr(core, "ClosedJaxpr", None, raising=False)
    jax_private.restore_closed_jaxpr()
    assert core.ClosedJaxpr is jax.extend.core.ClosedJaxpr
