"""Settings of the tracking process."""

from dataclasses import dataclass
from pathlib import Path

from services.chassis.settings import (
    Address,
    StoreSettings,
    address,
    folder,
    setting,
    web_url,
    whole,
)


@dataclass(frozen=True, kw_only=True)
class Settings(StoreSettings):
    """What the public edge needs to know."""

    grpc_bind: Address = setting(
        "OPENNOTICE_TRACKING_GRPC_BIND", address, "where gRPC answers", default=Address("127.0.0.1", 50053)
    )
    auth_address: Address = setting(
        "OPENNOTICE_AUTH_GRPC_ADDRESS", address, "where auth answers gRPC", default=Address("127.0.0.1", 50051)
    )
    link_address: Address = setting(
        "OPENNOTICE_LINK_GRPC_ADDRESS", address, "where link answers gRPC", default=Address("127.0.0.1", 50052)
    )
    reporting_address: Address = setting(
        "OPENNOTICE_REPORTING_GRPC_ADDRESS",
        address,
        "where reporting answers gRPC; the reconciler asks it what is missing",
        default=Address("127.0.0.1", 50055),
    )
    data_dir: Path = setting(
        "OPENNOTICE_DATA_DIR", folder, "folder on a durable volume of this process: copy of the directory, and spool"
    )
    public_bind: Address = setting(
        "OPENNOTICE_PUBLIC_BIND", address, "where visitors are answered", default=Address("127.0.0.1", 8080)
    )
    public_socket_fd: int | None = setting(
        "OPENNOTICE_PUBLIC_SOCKET_FD",
        whole(3, 65535),
        "an inherited listening socket; wins over the bind",
        default=None,
    )
    public_url: str = setting(
        "OPENNOTICE_PUBLIC_URL",
        web_url,
        "what links begin with; only its host is answered",
        default="http://127.0.0.1:8080",
    )
