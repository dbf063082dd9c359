"""List GPUs with the peak rates of NVIDIA's data sheets and white papers, and model times as a roofline."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Hold the peak rates of a GPU.

    name: name of the product.
    capability: compute capability as an integer, which chooses the machine code.
    bandwidth: memory bandwidth in bytes/s.
    half_flops: dense fp16 or bf16 FLOP/s with fp32 sums.
    issue_rate: warp instructions/s of all SMs, four for each SM and clock, at boost clock.
    """

    name: str
    capability: int
    bandwidth: float
    half_flops: float
    issue_rate: float

    def seconds(self, moved_bytes: int, flops: int, instructions: int) -> tuple[float, str]:
        """Return the (modelled seconds, limit that sets them)."""
        # A roofline: the three overlap perfectly, so the slowest alone sets the time.
        limits = {
            "bytes": moved_bytes / self.bandwidth,
            "FLOPs": flops / self.half_flops,
            "instructions": instructions / self.issue_rate,
        }
        binding = max(limits, key=lambda limit: limits[limit])
        return limits[binding], binding


# The issue rate is SMs * 4 * boost clock.
GPUS = (
    Gpu(
        name="A100 SXM 80 GB",
        capability=80,
        bandwidth=2.039e12,
        half_flops=312e12,
        issue_rate=108 * 4 * 1.410e9,
    ),
    Gpu(
        name="H100 SXM",
        capability=90,
        bandwidth=3.35e12,
        half_flops=989e12,
        issue_rate=132 * 4 * 1.830e9,
    ),
    Gpu(
        name="L4",
        capability=89,
        bandwidth=0.300e12,
        half_flops=121e12,
        issue_rate=58 * 4 * 2.040e9,
    ),
    Gpu(
        name="RTX 4090",
        capability=89,
        bandwidth=1.008e12,
        half_flops=165e12,
        issue_rate=128 * 4 * 2.520e9,
    ),
)
