"""The settings of the staff gateway."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from services.chassis.settings import Address, ServiceSettings, address, key_text, setting, web_url


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(ServiceSettings):
    """Where staff reach us, and where we reach the five services."""

    staff_bind: Address = setting(
        "OPENNOTICE_STAFF_BIND",
        address,
        "where the staff pages and the JSON API answer",
        default=Address("127.0.0.1", 8000),
    )
    staff_url: str = setting(
        "OPENNOTICE_STAFF_URL", web_url, "how staff reach it, as typed into a browser", default="http://127.0.0.1:8000"
    )
    cookie_key: str = setting(
        "OPENNOTICE_COOKIE_KEY",
        key_text,
        "key that signs form tokens and notes; the same on every gateway",
        secret=True,
    )
    auth_address: Address = setting(
        "OPENNOTICE_AUTH_GRPC_ADDRESS", address, "where auth answers", default=Address("127.0.0.1", 50051)
    )
    link_address: Address = setting(
        "OPENNOTICE_LINK_GRPC_ADDRESS", address, "where link answers", default=Address("127.0.0.1", 50052)
    )
    tracking_address: Address = setting(
        "OPENNOTICE_TRACKING_GRPC_ADDRESS", address, "where tracking answers", default=Address("127.0.0.1", 50053)
    )
    enrichment_address: Address = setting(
        "OPENNOTICE_ENRICHMENT_GRPC_ADDRESS", address, "where enrichment answers", default=Address("127.0.0.1", 50054)
    )
    reporting_address: Address = setting(
        "OPENNOTICE_REPORTING_GRPC_ADDRESS", address, "where reporting answers", default=Address("127.0.0.1", 50055)
    )

    @property
    def secure(self) -> bool:
        """Whether staff come over https."""
        return self.staff_url.startswith("https:")

    @property
    def staff_host(self) -> str:
        """The host name that staff type."""
        return urlsplit(self.staff_url).hostname or ""
