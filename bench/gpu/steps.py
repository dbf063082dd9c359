"""List the steps, cheapest and most telling first, with what each needs and how long it may take."""

from collections.abc import Sequence
from dataclasses import dataclass

BARE = ("torch", "triton", "compiler", "gpu")  # what a machine has that was made for nothing of ours


@dataclass(frozen=True, kw_only=True)
class Step:
    """Describe one step.

    name: short, for files and the command line.
    title: for the reader.
    work: module and function that do it, which takes a `bench.gpu.session.Session`.
    needs: keys of `bench.gpu.machine.NEEDS`.
    seconds: the limit, apart from what the steps before leave over.
    """

    name: str
    title: str
    work: str
    needs: Sequence[str] = BARE
    seconds: int


# Up to "autotuned-dilated" nothing but torch, triton and pytest is needed. Their limits add up to less than 9 minutes.
# The first step compiles every kernel for the first time, some 50 of them one after the other. What max-autotune does
# to a whole network takes longer than all of them.
STEPS = (
    Step(
        name="kernel-tests",
        title="kernels against their references: the tests of the paper's stages",
        work="bench.gpu.gpu_tests:of_kernels",
        needs=(*BARE, "pytest"),
        seconds=120,
    ),
    Step(
        name="attention",
        title="attention next to eager PyTorch and SDPA",
        work="bench.gpu.attention:launched",
        seconds=45,
    ),
    Step(
        name="dilated",
        title="dilated fusion next to eager PyTorch and cuDNN",
        work="bench.gpu.dilated:launched",
        seconds=30,
    ),
    Step(
        name="network",
        title="the whole network next to eager PyTorch, launched and as a CUDA graph",
        work="bench.gpu.networks:launched",
        seconds=70,
    ),
    Step(
        name="attention-trained",
        title="attention forward and backward",
        work="bench.gpu.attention:trained",
        seconds=25,
    ),
    Step(
        name="training",
        title="training steps",
        work="bench.gpu.training:launched",
        seconds=35,
    ),
    Step(
        name="compiled-attention",
        title="FlexAttention and torch.compile of attention",
        work="bench.gpu.attention:compiled",
        seconds=50,
    ),
    Step(
        name="compiled-dilated",
        title="torch.compile of the convolutions and their sum",
        work="bench.gpu.dilated:compiled",
        seconds=25,
    ),
    Step(
        name="compiled-network",
        title="torch.compile of the whole network",
        work="bench.gpu.networks:compiled",
        seconds=65,
    ),
    Step(
        name="autotuned-dilated",
        title="max-autotune of the convolutions",
        work="bench.gpu.dilated:autotuned",
        seconds=30,
    ),
    Step(
        name="decoding",
        title="DALI decoding on the GPU and on the CPU",
        work="bench.gpu.decoding:decode",
        needs=(*BARE, "toolkit"),
        seconds=60,
    ),
    Step(
        name="tensorrt",
        title="TensorRT engines",
        work="bench.gpu.engines:tensorrt",
        needs=(*BARE, "toolkit", "tensorrt"),
        seconds=300,
    ),
    Step(
        name="tensorrt-plugins",
        title="TensorRT engines with our kernels as plugins",
        work="bench.gpu.engines:tensorrt_plugins",
        needs=(*BARE, "toolkit", "tensorrt"),
        seconds=300,
    ),
    Step(
        name="torch-tensorrt",
        title="Torch-TensorRT engines",
        work="bench.gpu.engines:torch_tensorrt",
        needs=(*BARE, "toolkit", "tensorrt", "torch-tensorrt"),
        seconds=300,
    ),
    Step(
        name="server",
        title="the GPU repository behind Triton Inference Server",
        work="bench.gpu.serving:serve",
        needs=(*BARE, "toolkit", "tensorrt", "server"),
        seconds=300,
    ),
    Step(
        name="other-tests",
        title="all other tests that need a GPU",
        work="bench.gpu.gpu_tests:of_the_rest",
        needs=(*BARE, "development", "toolkit"),
        seconds=180,
    ),
    Step(
        name="autotuned-network",
        title="max-autotune of the whole network",
        work="bench.gpu.networks:autotuned",
        seconds=300,
    ),
    Step(
        name="compiled-training",
        title="torch.compile of training steps",
        work="bench.gpu.training:compiled",
        seconds=240,
    ),
    Step(
        name="autotuned-attention",
        title="max-autotune of attention",
        work="bench.gpu.attention:autotuned",
        seconds=180,
    ),
)
"""In the order in which they run."""
