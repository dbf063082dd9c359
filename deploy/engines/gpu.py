"""Ask for the GPU of this machine, which decides what is built for it and run on it."""

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
    if not here:
        return []
    # Imported here, because it brings Triton's compiler.
    from deploy.plugins.payload import gpu_refusal

    refusal = gpu_refusal(int(here.replace(".", "")))
    return [refusal] if refusal else []
