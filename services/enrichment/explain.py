"""An open in, the same open explained out. No I/O; builds protobuf directly because it does so for every open."""

from importlib.metadata import version

from google.protobuf.timestamp_pb2 import Timestamp
from opennotice.enrichment.v1 import events_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_events_pb2

from services.enrichment import device, network, verdict
from services.enrichment.data_files import Lookup
from services.enrichment.network import NetworkList
from services.enrichment.verdict import Judgement, Pack, Request

KIND_WORDS = {
    tracking_events_pb2.OPEN_KIND_PORTAL: "portal",
    tracking_events_pb2.OPEN_KIND_REDIRECT: "redirect",
    tracking_events_pb2.OPEN_KIND_EMAIL: "email",
}
_DEVICES = {
    "mobile": events_pb2.DEVICE_MOBILE,
    "tablet": events_pb2.DEVICE_TABLET,
    "desktop": events_pb2.DEVICE_DESKTOP,
    "other": events_pb2.DEVICE_OTHER,
}
_VERDICTS = {
    "unconfirmed": events_pb2.VERDICT_UNCONFIRMED,
    "machine_likely": events_pb2.VERDICT_MACHINE_LIKELY,
    "machine_certain": events_pb2.VERDICT_MACHINE_CERTAIN,
    "staff": events_pb2.VERDICT_STAFF,
}
_STATUSES = {
    "found": events_pb2.NETWORK_STATUS_FOUND,
    "not_public": events_pb2.NETWORK_STATUS_NOT_PUBLIC,
    "unavailable": events_pb2.NETWORK_STATUS_UNAVAILABLE,
}
# What the user agent is read with; as much part of the result as the IP data are.
_AGENT_DATA = tuple(f"{name} {version(name)}" for name in ("ua-parser-builtins", "crawler-user-agents"))
NO_NETWORKS = NetworkList(())


def explain(
    opened: tracking_events_pb2.OpenRecorded, *, pack: Pack, lookup: Lookup, staff: NetworkList, now: Timestamp
) -> events_pb2.OpenEnriched:
    """Returns everything that can be found out about an open by itself."""
    agent = device.cut(opened.user_agent)
    address = network.parse(opened.ip_address)
    origin = lookup.origin_of(address)
    judgement = pack.judge(
        Request(
            kind=KIND_WORDS.get(opened.kind, "portal"),
            method=opened.method,
            agent=agent,
            headers={header.name: header.value for header in opened.headers} if opened.headers else {},
            network_kind=origin.network_kind,
            from_staff_network=address is not None and bool(staff) and address in staff,
        )
    )
    seen = _device(agent, judgement)
    return events_pb2.OpenEnriched(
        open=opened,
        device=_DEVICES[seen.kind],
        browser=seen.browser,
        browser_version=seen.browser_version,
        os=seen.os,
        os_version=seen.os_version,
        asn=origin.asn,
        network=origin.network,
        country=origin.place.country,
        region=origin.place.region,
        city=origin.place.city,
        network_status=_STATUSES[origin.status],
        verdict=_VERDICTS[judgement.verdict],
        reasons=[events_pb2.Reason(code=reason.code, sentence=reason.sentence) for reason in judgement.reasons],
        language=verdict.preferred_language(opened.accept_language),
        rule_pack=pack.version,
        data_sets=origin.data_sets + _AGENT_DATA,
        enrich_time=now,
    )


def _device(agent: str, judgement: Judgement) -> device.Device:
    seen = device.read(agent)
    if "mailbox_proxy" in judgement.codes:
        # The agent describes the provider's machine; the device of the person stays unknown.
        return device.Device(browser=seen.browser)
    return seen
