"""GPU models of the simulated market.

Memory is what the driver reports (MiB), names are the vendor-neutral short form plus the name that
`nvidia-smi` prints. Prices are typical 2026 community-cloud prices in micro-dollars per GPU-hour;
they need to be plausible, not true.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuModel:
    """One GPU product as it appears in offers and in `nvidia-smi`."""

    name: str
    smi_name: str
    vram_mib: int
    compute_cap: int
    """Compute capability times 100 (8.9 is 890)."""
    price_micro: int
    """Micro-dollars per GPU and hour before the spread of the market."""
    power_w: int
    tflops: float
    mem_bw_gbs: float
    dlperf: float
    counts: tuple[int, ...]
    """Sizes (GPUs per offer) in which machines of this model are let."""
    machines: int
    """How many machines of this model the market has."""
    datacenter_share: float = 0.3


CATALOG: tuple[GpuModel, ...] = (
    GpuModel(
        "H100 SXM",
        "NVIDIA H100 80GB HBM3",
        81559,
        900,
        1_930_000,
        700,
        53.5,
        2900.0,
        520.0,
        (1, 2, 4, 8),
        3,
        0.9,
    ),
    GpuModel(
        "H100 PCIE", "NVIDIA H100 PCIe", 81559, 900, 1_720_000, 350, 49.2, 1800.0, 410.0, (1, 2), 3, 0.7
    ),
    GpuModel("H100 NVL", "NVIDIA H100 NVL", 95830, 900, 1_890_000, 400, 51.0, 3300.0, 445.0, (1, 4), 2, 0.8),
    GpuModel("H200", "NVIDIA H200", 143771, 900, 2_410_000, 700, 53.9, 4100.0, 560.0, (1, 4, 8), 2, 0.9),
    GpuModel("H200 NVL", "NVIDIA H200 NVL", 143771, 900, 2_250_000, 600, 52.0, 4100.0, 520.0, (1, 2), 1, 0.9),
    GpuModel("B200", "NVIDIA B200", 183359, 1000, 3_690_000, 1000, 74.0, 7100.0, 980.0, (1, 8), 2, 1.0),
    GpuModel(
        "A100 SXM4",
        "NVIDIA A100-SXM4-80GB",
        81920,
        800,
        930_000,
        400,
        19.3,
        1700.0,
        250.0,
        (1, 2, 4, 8),
        3,
        0.6,
    ),
    GpuModel(
        "A100 SXM4", "NVIDIA A100-SXM4-40GB", 40960, 800, 640_000, 400, 19.3, 1400.0, 230.0, (1, 4), 2, 0.6
    ),
    GpuModel(
        "A100 PCIE", "NVIDIA A100 80GB PCIe", 81920, 800, 820_000, 300, 19.2, 1600.0, 220.0, (1, 2), 3, 0.5
    ),
    GpuModel("L40S", "NVIDIA L40S", 46068, 890, 590_000, 350, 91.0, 780.0, 190.0, (1, 4), 3, 0.8),
    GpuModel("L40", "NVIDIA L40", 46068, 890, 480_000, 300, 89.0, 760.0, 175.0, (1,), 1, 0.8),
    GpuModel("L4", "NVIDIA L4", 23034, 890, 270_000, 72, 30.0, 290.0, 60.0, (1,), 2, 1.0),
    GpuModel("A40", "NVIDIA A40", 46068, 860, 340_000, 300, 37.0, 620.0, 88.0, (1, 2), 2, 0.5),
    GpuModel("A10", "NVIDIA A10", 23028, 860, 190_000, 150, 31.0, 560.0, 62.0, (1,), 2, 0.8),
    GpuModel(
        "RTX PRO 6000 WS",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        97887,
        1200,
        940_000,
        600,
        122.0,
        1600.0,
        320.0,
        (1, 2),
        2,
        0.3,
    ),
    GpuModel(
        "RTX 6000Ada",
        "NVIDIA RTX 6000 Ada Generation",
        49140,
        890,
        560_000,
        300,
        90.0,
        860.0,
        170.0,
        (1, 4),
        2,
        0.4,
    ),
    GpuModel("RTX A6000", "NVIDIA RTX A6000", 49140, 860, 410_000, 300, 38.7, 680.0, 95.0, (1, 2, 4), 3, 0.4),
    GpuModel("RTX A5000", "NVIDIA RTX A5000", 24564, 860, 190_000, 230, 27.5, 630.0, 70.0, (1, 2), 2),
    GpuModel("RTX A4000", "NVIDIA RTX A4000", 16376, 860, 105_000, 140, 19.0, 390.0, 44.0, (1,), 2),
    GpuModel(
        "RTX 5090",
        "NVIDIA GeForce RTX 5090",
        32607,
        1200,
        440_000,
        575,
        104.0,
        1500.0,
        250.0,
        (1, 2, 4),
        7,
        0.1,
    ),
    GpuModel(
        "RTX 5080", "NVIDIA GeForce RTX 5080", 16303, 1200, 210_000, 360, 56.0, 820.0, 140.0, (1,), 3, 0.1
    ),
    GpuModel(
        "RTX 4090",
        "NVIDIA GeForce RTX 4090",
        24564,
        890,
        330_000,
        450,
        82.0,
        890.0,
        160.0,
        (1, 2, 4),
        10,
        0.1,
    ),
    GpuModel(
        "RTX 4080", "NVIDIA GeForce RTX 4080", 16376, 890, 180_000, 320, 48.7, 610.0, 105.0, (1,), 3, 0.1
    ),
    GpuModel(
        "RTX 4070S Ti",
        "NVIDIA GeForce RTX 4070 Ti SUPER",
        16376,
        890,
        130_000,
        285,
        44.0,
        550.0,
        90.0,
        (1,),
        2,
        0.0,
    ),
    GpuModel(
        "RTX 3090", "NVIDIA GeForce RTX 3090", 24576, 860, 160_000, 350, 35.6, 800.0, 72.0, (1, 2, 4), 7, 0.05
    ),
    GpuModel(
        "RTX 3090 Ti",
        "NVIDIA GeForce RTX 3090 Ti",
        24564,
        860,
        190_000,
        450,
        40.0,
        860.0,
        80.0,
        (1,),
        2,
        0.05,
    ),
    GpuModel("RTX 3080", "NVIDIA GeForce RTX 3080", 10240, 860, 95_000, 320, 29.8, 640.0, 60.0, (1,), 2, 0.0),
    GpuModel(
        "RTX 3060", "NVIDIA GeForce RTX 3060", 12288, 860, 58_000, 170, 12.7, 310.0, 28.0, (1, 2), 4, 0.0
    ),
    GpuModel(
        "Tesla V100", "Tesla V100-SXM2-32GB", 32768, 700, 190_000, 300, 15.7, 750.0, 55.0, (1, 4), 2, 0.3
    ),
    GpuModel("Tesla T4", "Tesla T4", 15360, 750, 98_000, 70, 8.1, 260.0, 20.0, (1,), 2, 0.9),
)
