"""What the enrichment process is told by its environment."""

from dataclasses import dataclass
from pathlib import Path

from services.chassis.settings import Address, StoreSettings, address, folder, setting, whole


@dataclass(frozen=True, kw_only=True)
class Settings(StoreSettings):
    """Settings of enrichment."""

    grpc_bind: Address = setting(
        "OPENNOTICE_ENRICHMENT_GRPC_BIND",
        address,
        "where enrichment answers calls",
        default=Address("127.0.0.1", 50054),
    )
    auth_address: Address = setting(
        "OPENNOTICE_AUTH_GRPC_ADDRESS", address, "where auth answers calls", default=Address("127.0.0.1", 50051)
    )
    ip_data_dir: Path | None = setting(
        "OPENNOTICE_IP_DATA_DIR",
        folder,
        "folder of .mmdb files that name the network and place of addresses; opens go on without",
        default=None,
    )
    ip_data_most_mib: int = setting(
        "OPENNOTICE_IP_DATA_MOST_MIB",
        whole(1, 16_384),
        "a file in that folder that is larger is refused",
        default=1024,
    )
