"""Starts the staff gateway."""

from gateway.app import create_app
from gateway.clients import connect
from gateway.settings import GatewaySettings
from services.chassis.serve import Process, StartFault, run
from services.chassis.settings import load_or_exit
from services.chassis.web import listening_socket

# An open live stream ends here; the browser connects again by itself.
DRAIN_SECONDS = 3


async def wire(process: Process) -> None:
    """Builds the gateway."""
    settings = process.settings
    assert isinstance(settings, GatewaySettings)
    connections = connect(
        auth=process.channel(settings.auth_address),
        link=process.channel(settings.link_address),
        tracking=process.channel(settings.tracking_address),
        enrichment=process.channel(settings.enrichment_address),
        reporting=process.channel(settings.reporting_address),
        signer=process.signer,
    )
    app = create_app(settings, connections, process.checker)
    try:
        listener = listening_socket(settings.staff_bind.host, settings.staff_bind.port)
    except OSError as error:
        raise StartFault(f"cannot listen on {settings.staff_bind}: {error.strerror}") from None
    process.serve_web(app, [listener], drain_seconds=DRAIN_SECONDS)


if __name__ == "__main__":
    run("gateway", load_or_exit(GatewaySettings), wire)
