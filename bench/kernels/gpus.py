"""Peak rates from NVIDIA's data sheets and architecture white papers, and a roofline of three limits."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """bandwidth in bytes/s; half: dense fp16/bf16 FLOP/s with fp32 sums; issue: warp instructions/s of all SMs (four
    a clock and SM at boost clock); capability: whose machine code it runs."""

    name: str
    capability: int
    bandwidth: float
    half: float
    issue: float

    def seconds(self, moved_bytes: int, flops: int, instructions: int) -> tuple[float, str]:
        """(modelled seconds, the limit that sets them), all three overlapping perfectly."""
        limits = {
            "bytes": moved_bytes / self.bandwidth,
            "FLOPs": flops / self.half,
            "instructions": instructions / self.issue,
        }
        binding = max(limits, key=lambda limit: limits[limit])
        return limits[binding], binding


GPUS = (
    Gpu("A100 SXM 80 GB", 80, 2.039e12, 312e12, 108 * 4 * 1.410e9),
    Gpu("H100 SXM", 90, 3.35e12, 989e12, 132 * 4 * 1.830e9),
    Gpu("L4", 89, 0.300e12, 121e12, 58 * 4 * 2.040e9),
    Gpu("RTX 4090", 89, 1.008e12, 165e12, 128 * 4 * 2.520e9),
)
