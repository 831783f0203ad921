"""RunPod's catalog as a pure function of the simulated market: GPU types, clouds, data centres, stock.

RunPod sells types, not machines. A machine of the market stands in the secure cloud of one data centre
or in the community cloud, and a type's stock is how many machines could take that many GPUs now.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gpucloudsim.engine.catalog import CATALOG, GpuModel
from gpucloudsim.engine.market import Machine, Offer

Row = dict[str, Any]
CONTAINER_MICRO_PER_GB_MONTH = 100_000
"""Container disk while running, USD 0.10 per GB and month [docs]."""
VOLUME_MICRO_PER_GB_MONTH = (100_000, 200_000)
"""Pod volume, running and stopped [docs]."""

CAPACITY = "There are no longer any instances available with the requested specifications. Please refresh and try again."


@dataclass(frozen=True)
class Place:
    """A data centre."""

    id: str
    name: str
    region: str
    country: str


PLACES: tuple[Place, ...] = (
    Place("US-KS-2", "US Kansas 2", "NORTH_AMERICA", "US"),
    Place("US-TX-3", "US Texas 3", "NORTH_AMERICA", "US"),
    Place("US-CA-2", "US California 2", "NORTH_AMERICA", "US"),
    Place("CA-MTL-1", "CA Montreal 1", "NORTH_AMERICA", "CA"),
    Place("EU-RO-1", "EU Romania 1", "EUROPE", "RO"),
    Place("EU-CZ-1", "EU Czech Republic 1", "EUROPE", "CZ"),
    Place("EUR-IS-1", "EUR Iceland 1", "EUROPE", "IS"),
    Place("EU-SE-1", "EU Sweden 1", "EUROPE", "SE"),
)

_NAMES = {
    "H100 SXM": "H100 SXM", "H100 PCIE": "H100 PCIe", "H200": "H200 SXM", "A100 PCIE": "A100 PCIe",
    "RTX 6000Ada": "RTX 6000 Ada", "RTX PRO 6000 WS": "RTX PRO 6000", "RTX 4070S Ti": "RTX 4070 Ti SUPER",
    "Tesla V100": "V100 SXM2 32GB", "Tesla T4": "T4",
}  # fmt: skip
"""Display names where RunPod's differ from the market's; ids are what the driver calls the product."""


def type_name(gpu: GpuModel) -> str:
    """RunPod's display name of a model."""
    if gpu.name == "A100 SXM4":
        return "A100 SXM" if gpu.vram_mib > 50_000 else "A100 SXM 40GB"
    return _NAMES.get(gpu.name, gpu.name)


def memory_gb(gpu: GpuModel) -> int:
    """Nominal GB, as the catalog shows them."""
    known = {
        81559: 80,
        81920: 80,
        95830: 94,
        143771: 141,
        183359: 180,
        97887: 96,
        46068: 48,
        49140: 48,
        40960: 40,
    }
    return known.get(gpu.vram_mib, round(gpu.vram_mib / 1024))  # fmt: skip


TYPES: dict[str, GpuModel] = {gpu.smi_name: gpu for gpu in CATALOG}
"""GPU type id -> model."""


def place_of(machine: Machine) -> Place | None:
    """The data centre of a machine; None in the community cloud."""
    return PLACES[machine.machine_id % len(PLACES)] if machine.datacenter else None


def list_price(gpu: GpuModel, *, secure: bool, factor: float = 1.0) -> int:
    """Micro-dollars per GPU and hour: one price per type and cloud, in whole cents; `factor` is the world's."""
    return round(gpu.price_micro * factor * (1.18 if secure else 0.92) / 10_000) * 10_000


def sold(gpu: GpuModel, *, secure: bool) -> bool:
    """Whether the cloud has machines of this type at all."""
    share = gpu.datacenter_share
    return share > 0 if secure else share < 0.9


def level(count: int) -> str:
    """How RunPod words so much stock."""
    return "NONE" if count <= 0 else "LOW" if count == 1 else "MEDIUM" if count <= 3 else "HIGH"


@dataclass(frozen=True)
class Wanted:
    """What may be placed: filters of the catalog and of a create."""

    secure: bool
    count: int = 1
    places: frozenset[str] | None = None
    countries: frozenset[str] | None = None
    min_cuda: float = 0.0
    cudas: frozenset[str] | None = None

    def fits(self, offer: Offer) -> bool:
        """Whether a listed machine can take it."""
        machine, place = offer.machine, place_of(offer.machine)
        if (place is not None) != self.secure or offer.num_gpus != self.count:
            return False
        if self.places is not None and (place is None or place.id not in self.places):
            return False
        if self.countries is not None and (place is None or place.country not in self.countries):
            return False
        return machine.cuda >= self.min_cuda and (
            self.cudas is None or any(float(c) <= machine.cuda for c in self.cudas)
        )


def free(offers: Iterable[Offer], wanted: Wanted) -> dict[str, list[Offer]]:
    """Those machines that could take it, by GPU type id."""
    found: dict[str, list[Offer]] = {}
    for offer in offers:
        if wanted.fits(offer):
            found.setdefault(offer.machine.gpu.smi_name, []).append(offer)
    return found


def _cudas(offers: list[Offer]) -> list[Row]:
    return [
        {"version": version, "available": any(o.machine.cuda >= float(version) for o in offers)}
        for version in ("12.4", "12.6", "12.8", "13.0")
    ]


def type_row(
    gpu: GpuModel, stock: dict[str, list[Offer]] | None, *, secure: bool, factor: float = 1.0
) -> Row:
    """One GPU type; with `stock` the availability of one cloud is added."""
    most = max(gpu.counts)
    row: Row = {
        "id": gpu.smi_name,
        "name": type_name(gpu),
        "pool": f"{type_name(gpu).split()[0].upper()}_{memory_gb(gpu)}",
        "manufacturer": "NVIDIA",
        "memory": memory_gb(gpu),
        "secure": sold(gpu, secure=True),
        "community": sold(gpu, secure=False),
        "price": {
            # a cloud that does not sell the type shows 0, sometimes an old price: the flags decide
            "secure": list_price(gpu, secure=True, factor=factor) / 1e6 if sold(gpu, secure=True) else 0.0,
            "community": list_price(gpu, secure=False, factor=factor) / 1e6 if gpu.price_micro % 3 or sold(gpu, secure=False) else 0.0,
        },
        "maxCount": {
            "secure": most if sold(gpu, secure=True) else 0,
            "community": most if sold(gpu, secure=False) else 0,
        },
    }  # fmt: skip
    if stock is not None:
        offers = stock.get(gpu.smi_name, [])
        row["availability"] = level(len(offers))
        row["cudaVersions"] = _cudas(offers)
        if secure and offers:
            row["dataCenters"] = [
                {"id": place.id, "name": place.name, "availability": level(n)}
                for place in PLACES
                if (n := sum(place_of(o.machine) == place for o in offers))
            ]
    return row


UNKNOWN_ROW: Row = {
    "id": "unknown", "name": "unknown", "pool": None, "manufacturer": "UNKNOWN", "memory": 0, "secure": False,
    "community": False, "price": {"secure": 0.0, "community": 0.0}, "maxCount": {"secure": 0, "community": 0},
}  # fmt: skip
MIG_ROW: Row = {
    "id": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "name": "H100 SXM MIG 1g.10gb", "pool": None, "manufacturer": "NVIDIA",
    "memory": 10, "secure": True, "community": False, "price": {"secure": 0.35, "community": 0.0},
    "maxCount": {"secure": 1, "community": 0},
}  # fmt: skip


def place_row(place: Place, stock: dict[str, list[Offer]] | None) -> Row:
    """One data centre; with `stock` the GPU types that it has."""
    row: Row = {
        "id": place.id,
        "name": place.name,
        "region": place.region,
        "globalNetwork": place.country != "IS",
        "networkVolumeTypes": ["STANDARD", "HIGH_PERFORMANCE"] if place.country == "US" else ["STANDARD"],
        "compliance": ["SOC_2_TYPE_2", "ISO_IEC_27001"] + (["GDPR"] if place.region == "EUROPE" else []),
    }
    if stock is not None:
        row["gpuAvailability"] = [
            {"id": name, "name": type_name(TYPES[name]), "availability": level(n)}
            for name, offers in stock.items()
            if (n := sum(place_of(o.machine) == place for o in offers))
        ]
    return row
