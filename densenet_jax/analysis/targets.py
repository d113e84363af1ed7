"""Describes the hardware to compile for, whether or not it is present."""

import dataclasses
import importlib.util
import os

import jax
from jax.experimental import topologies

from densenet_jax.errors import InputError, suggest

GIB = 2**30

# The target without hardware: only counts that need no compiler, see `plan.analyse`.
ANALYTIC = "analytic"

# The description of a GPU that XLA needs: compute capability, cores, bytes of bandwidth a second,
# bytes of L2 cache, GHz, bytes of memory.
_GPUS = {
    "a100": ((8, 0), 108, 2_039_000_000_000, 40 * 2**20, 1.41, 84_987_740_160),
    "h100": ((9, 0), 132, 3_352_320_000_000, 50 * 2**20, 1.98, 84_929_347_584),
    "h200": ((9, 0), 132, 4_800_000_000_000, 50 * 2**20, 1.98, 150_754_820_096),
}
# Peak bfloat16 operations a second of a chip, without sparsity, from the data sheets.
_GPU_PEAKS = {"a100": 312e12, "h100": 989e12, "h200": 989e12}
# Topology to compile for, by number of chips. One chip is compiled as one of four, because there is
# no smaller topology.
_FLAT = {1: "2x2", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_DEEP = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"}
# Bytes of memory of a chip, cores of a chip that the name counts, topologies, peak bfloat16
# operations a second of a chip, bytes of bandwidth a second.
_TPUS = {
    "v4": (32 * GIB, 2, _DEEP, 275e12, 1_228e9),
    "v5e": (16 * GIB, 1, _FLAT, 197e12, 819e9),
    "v5p": (95 * GIB, 2, _DEEP, 459e12, 2_765e9),
    "v6e": (32 * GIB, 1, _FLAT, 918e12, 1_640e9),
}

# Environment variables with which a compiler runs without its device.
_ENVIRONMENT: dict[str, dict[str, str]] = {
    "cpu": {},
    "cuda": {
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        "XLA_FLAGS": "--xla_gpu_autotune_level=0",
    },
    "tpu": {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"},
}
_PLUGINS = {"cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin"), "tpu": ("libtpu",)}
EXTRAS = {"cuda": "cuda12", "tpu": "tpu"}


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices of one kind.

    Attributes:
      platform: cpu, cuda or tpu.
      chips: number of chips.
      memory_bytes: memory of one chip, or of the machine for a CPU.
      topology: the compiler's name for the arrangement of the chips.
      settings: options for the compiler.
      peak_flops: peak bfloat16 operations a second of one chip, or None if unknown.
      bandwidth: bytes of memory traffic a second of one chip, or None if unknown.
    """

    name: str
    platform: str
    chips: int
    memory_bytes: int
    topology: str = ""
    settings: dict = dataclasses.field(default_factory=dict)
    peak_flops: float | None = None
    bandwidth: float | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that must be set before JAX is imported."""
        return {"JAX_PLATFORMS": "cpu", **_ENVIRONMENT[self.platform]}

    def compiler_is_installed(self) -> bool:
        """Returns whether a plugin with the target's compiler is installed."""
        plugins = _PLUGINS.get(self.platform)
        return plugins is None or any(importlib.util.find_spec(name) for name in plugins)

    def devices(self) -> list:
        """Returns the devices to lower for, which need not exist."""
        if self.platform == "cpu":
            return jax.devices("cpu")[: self.chips]
        topology = topologies.get_topology_desc(
            platform=self.platform, topology_name=self.topology, **self.settings
        )
        return topology.devices[: self.chips]


def find_target(name: str) -> Target:
    """Returns the target called `name`; raises InputError with a suggestion if there is none."""
    if name == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Target(name, "cpu", 1, memory)
    kind, _, count = name.removeprefix("tpu-").partition("-")
    if kind in _GPUS and name.startswith(kind):
        gpus = count or "1"
        if gpus.isdecimal() and int(gpus):
            return _gpu(name, kind, int(gpus))
    if kind in _TPUS and name.startswith("tpu-") and count.isdigit():
        memory, cores, topology, peak, bandwidth = _TPUS[kind]
        chips = int(count) // cores
        if chips * cores == int(count) and chips in topology:
            arranged = f"{kind}:{topology[chips]}"
            return Target(name, "tpu", chips, memory, arranged, {}, peak, bandwidth)
    raise InputError(f"there is no target {name!r}: {suggest(name, (ANALYTIC, *NAMES))}")


NAMES = (
    "cpu",
    *(f"{gpu}{chips}" for gpu in _GPUS for chips in ("", "-8")),
    *(
        f"tpu-{tpu}-{chips * cores}"
        for tpu, (_, cores, topology, *_) in _TPUS.items()
        for chips in topology
    ),
)


def _gpu(name: str, kind: str, chips: int) -> Target:
    (major, minor), cores, bandwidth, cache, clock, memory = _GPUS[kind]
    config = f"""
        gpu_device_info {{
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
          shared_memory_per_block: 49152 shared_memory_per_block_optin: 166912
          shared_memory_per_core: 167936 registers_per_block_limit: 65536
          registers_per_core_limit: 65536 fpus_per_core: {128 if major == 9 else 64}
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          core_count: {cores} memory_bandwidth: {bandwidth} l2_cache_size: {cache}
          clock_rate_ghz: {clock} device_memory_size: {memory}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 8 }}
        device_description_str: "NVIDIA {kind.upper()}"
    """
    settings = {"target_config": config, "topology": f"1x1x{chips}"}
    return Target(name, "cuda", chips, memory, "", settings, _GPU_PEAKS[kind], bandwidth)
