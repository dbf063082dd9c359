"""Ask for the GPU of this machine, which decides what is built for it and run on it."""

import importlib

import torch


def capability_here() -> str | None:
    """Return the compute capability of this machine's GPU, such as "8.6", or None where there is none."""
    # Asked when it matters: a probe at import would start CUDA in every process.
    return "{}.{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else None


def name_here() -> str | None:
    """Return the name of this machine's GPU, or None where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def plugin_refusals() -> list[str]:
    """List why the plugins' kernels cannot be compiled for this machine's GPU."""
    here = capability_here()
    # Imported here, because it brings Triton's compiler.
    refusal = (
        importlib.import_module("deploy.plugins.payload").gpu_refusal(int(here.replace(".", ""))) if here else None
    )
    return [refusal] if refusal else []
