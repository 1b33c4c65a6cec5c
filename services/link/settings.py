"""The settings of the link process."""

from dataclasses import dataclass

from services.chassis.settings import Address, SettingsFault, StoreSettings, address, service_url, setting, web_url
from services.link.token import TokenKeys, parse_keys


@dataclass(frozen=True, kw_only=True)
class Settings(StoreSettings):
    """What the link process needs."""

    grpc_bind: Address = setting(
        "OPENNOTICE_LINK_GRPC_BIND", address, "where LinkService answers", default=Address("127.0.0.1", 50052)
    )
    auth_address: Address = setting(
        "OPENNOTICE_AUTH_GRPC_ADDRESS", address, "where the auth process answers", default=Address("127.0.0.1", 50051)
    )
    directory_database_url: str = setting(
        "OPENNOTICE_DIRECTORY_DATABASE_URL",
        service_url("postgresql"),
        "PostgreSQL as the role that reads across agencies for other services",
        secret=True,
    )
    token_keys: TokenKeys = setting(
        "OPENNOTICE_LINK_TOKEN_KEY",
        parse_keys,
        "keys that tokens are made from, in base64, one a line as version:key; without them no link can be shown again",
        secret=True,
    )
    public_url: str = setting(
        "OPENNOTICE_PUBLIC_URL", web_url, "what every link begins with", default="http://127.0.0.1:8080"
    )

    def __post_init__(self) -> None:
        """Refuses one key for two purposes: what leaks of one use must not help against the other."""
        if self.token_keys.holds(self.paging_key):
            raise SettingsFault(["OPENNOTICE_LINK_TOKEN_KEY is the same key as OPENNOTICE_PAGING_KEY; make another"])
