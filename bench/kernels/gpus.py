"""List GPUs with their peak rates, and model times as a roofline."""

from dataclasses import dataclass

_ISSUED = 4  # warp instructions of a multiprocessor in a clock
_PORT = 64  # bytes from the L2 cache to a multiprocessor in a clock


@dataclass(frozen=True, kw_only=True)
class Work:
    """Hold what a launch does.

    programs: of the launch.
    dram_bytes: bytes that memory moves at least.
    l2_bytes: bytes between the L2 cache and the multiprocessors.
    flops: of the matrix products, with the padding of the tiles.
    instructions: warp instructions of the main loops.
    """

    programs: int
    dram_bytes: int
    l2_bytes: int
    flops: int
    instructions: int


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Hold the peak rates of a GPU.

    name: name of the product.
    capability: compute capability as an integer, which chooses the machine code.
    multiprocessors: of the GPU.
    clock: boost clock in Hz.
    bandwidth: memory bandwidth in bytes/s.
    l2_bandwidth: bandwidth of reads that the L2 cache answers, in bytes/s.
    half_flops: dense fp16 or bf16 FLOP/s with fp32 sums.
    """

    name: str
    capability: int
    multiprocessors: int
    clock: float
    bandwidth: float
    l2_bandwidth: float
    half_flops: float

    def seconds(self, work: Work) -> tuple[float, str]:
        """Return the (modelled seconds, limit that sets them)."""
        # The multiprocessor that gets the most programs ends last. With fewer programs than multiprocessors, the rest
        # are idle.
        busiest = -(-work.programs // self.multiprocessors) / work.programs
        # A roofline: the limits overlap perfectly, so the slowest alone sets the time.
        limits = {
            "DRAM": work.dram_bytes / self.bandwidth,
            "L2": max(work.l2_bytes / self.l2_bandwidth, busiest * work.l2_bytes / (_PORT * self.clock)),
            "FLOPs": busiest * work.flops / (self.half_flops / self.multiprocessors),
            "instructions": busiest * work.instructions / (_ISSUED * self.clock),
        }
        binding = max(limits, key=lambda limit: limits[limit])
        return limits[binding], binding


# Memory, FLOPs, multiprocessors and clocks are those of NVIDIA's data sheets and white papers. NVIDIA gives no rate of
# the L2 caches that a kernel reaches. Those of the H100 and the RTX 4090 are about what published microbenchmarks read,
# 0.6 of the 5120 bytes a clock of the H100's slices. The same share is taken for the A100, and the L4 has half the
# slices of an RTX 4090.
GPUS = (
    Gpu(
        name="A100 SXM 80 GB",
        capability=80,
        multiprocessors=108,
        clock=1.410e9,
        bandwidth=2.039e12,
        l2_bandwidth=4.4e12,
        half_flops=312e12,
    ),
    Gpu(
        name="H100 SXM",
        capability=90,
        multiprocessors=132,
        clock=1.830e9,
        bandwidth=3.35e12,
        l2_bandwidth=5.5e12,
        half_flops=989e12,
    ),
    Gpu(
        name="L4",
        capability=89,
        multiprocessors=58,
        clock=2.040e9,
        bandwidth=0.300e12,
        l2_bandwidth=2.0e12,
        half_flops=121e12,
    ),
    Gpu(
        name="RTX 4090",
        capability=89,
        multiprocessors=128,
        clock=2.520e9,
        bandwidth=1.008e12,
        l2_bandwidth=5.0e12,
        half_flops=165e12,
    ),
)
