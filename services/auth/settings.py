"""What the auth process is told by its environment."""

from dataclasses import dataclass

from services.chassis.settings import Address, StoreSettings, address, service_url, setting


@dataclass(frozen=True, kw_only=True)
class Settings(StoreSettings):
    """Settings of auth."""

    grpc_bind: Address = setting(
        "OPENNOTICE_AUTH_GRPC_BIND", address, "where auth answers calls", default=Address("127.0.0.1", 50051)
    )
    directory_database_url: str = setting(
        "OPENNOTICE_DIRECTORY_DATABASE_URL",
        service_url("postgresql"),
        "PostgreSQL as the role that finds the agency of an e-mail address, a session or an API key",
        secret=True,
    )
