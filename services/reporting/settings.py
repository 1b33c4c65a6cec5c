"""The settings of the reporting process."""

from dataclasses import dataclass

from services.chassis.settings import Address, StoreSettings, address, service_url, setting


@dataclass(frozen=True, kw_only=True)
class Settings(StoreSettings):
    """What reporting needs besides the frame."""

    grpc_bind: Address = setting(
        "OPENNOTICE_REPORTING_GRPC_BIND", address, "where gRPC answers", default=Address("127.0.0.1", 50055)
    )
    auth_address: Address = setting(
        "OPENNOTICE_AUTH_GRPC_ADDRESS", address, "where auth answers gRPC", default=Address("127.0.0.1", 50051)
    )
    link_address: Address = setting(
        "OPENNOTICE_LINK_GRPC_ADDRESS", address, "where link answers gRPC", default=Address("127.0.0.1", 50052)
    )
    directory_database_url: str = setting(
        "OPENNOTICE_DIRECTORY_DATABASE_URL",
        service_url("postgresql"),
        "PostgreSQL as the role that sees which opens there are, of every agency, and nothing of them",
        secret=True,
    )
