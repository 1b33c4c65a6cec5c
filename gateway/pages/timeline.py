"""What happened with a client, as the profile tells it."""

from dataclasses import dataclass

from opennotice.reporting.v1 import reporting_pb2

from gateway import words
from gateway.pages import labels
from gateway.pages.labels import Label
from gateway.pages.open_view import labels_of
from gateway.pages.times import Moment, Zone


@dataclass(frozen=True)
class Entry:
    """One thing that happened."""

    time: Moment
    tone: str
    title: str
    text: str
    href: str
    labels: list[Label]


def entries_of(timeline: reporting_pb2.GetClientTimelineResponse, zone: Zone) -> list[Entry]:
    """Returns the entries that this page knows how to tell, newest first."""
    return [entry for found in timeline.entries if (entry := _entry(found, zone)) is not None]


def _entry(found: reporting_pb2.TimelineEntry, zone: Zone) -> Entry | None:
    at = zone.at(found, "time")
    which = found.WhichOneof("entry")
    if which == "message":
        return _message(found, at, zone)
    if which == "delivery":
        label = labels.DELIVERY_LABELS.get(words.DELIVERY_STATUS.word(found.delivery.status) or "", labels.UNKNOWN)
        return Entry(at, "delivery", "Delivery report", "", "", [label])
    if which == "open":
        return _open(found.open, at)
    return None


def _message(found: reporting_pb2.TimelineEntry, at: Moment, zone: Zone) -> Entry:
    channel = labels.CHANNELS.get(words.CHANNEL.word(found.message.channel) or "", "Message")
    sent = found.message.HasField("send_time")
    deadline = words.moment_of(found.message, "deadline_time")
    about = ""
    if deadline:
        day = zone.moment(deadline)
        about = f"Deadline {day.date}, {day.clock} {day.zone}"
    return Entry(at, "message", f"{channel} {'sent' if sent else 'created'}", about, "", [])


def _open(found: reporting_pb2.Open, at: Moment) -> Entry:
    late = words.LINK_STATE.word(found.link_state) == "expired"
    place = found.portal_display_name + (f", page {found.page}" if found.page else "")
    device = " · ".join(part for part in (found.browser, found.os, found.network) if part)
    return Entry(
        time=at,
        tone="late" if late else "open",
        title=f"{'Late open' if late else 'Open'} of {place}" if place else ("Late open" if late else "Open"),
        text=device,
        href=f"/opens/{words.id_of(found.name)}",
        labels=labels_of(found),
    )
