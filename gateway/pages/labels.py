"""How the words of the product look and read on a page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """A small tag: its text and its tone (calm, good, warn, stop)."""

    text: str
    tone: str


DEVICES = {"mobile": "Mobile", "tablet": "Tablet", "desktop": "Desktop", "other": "Other"}
KINDS = {"portal": "Portal", "redirect": "Redirect", "email": "E-mail"}
CHANNELS = {"sms": "Text message", "email": "E-mail"}
PORTAL_KINDS = {"external": "A site of your agency", "hosted": "Pages kept here"}
VERDICTS = {
    "person_confirmed": "Person, confirmed",
    "person_likely": "Person, likely",
    "unconfirmed": "Unconfirmed",
    "machine_likely": "Machine, likely",
    "machine_certain": "Machine",
    "staff": "Staff",
}
LINK_STATES = {
    "active": "Active",
    "expired": "Expired (late)",
    "revoked": "Revoked",
    "portal_inactive": "Portal inactive",
}
# The page of one open knows more than a list, which is searched by the above.
OPENED_STATES = {**LINK_STATES, "served_though_revoked": "Revoked, but served as active"}

VERDICT_LABELS = {
    "person_confirmed": Label("Person, confirmed", "good"),
    "person_likely": Label("Person, likely", "good"),
    "unconfirmed": Label("Unconfirmed", "calm"),
    "machine_likely": Label("Machine, likely", "machine"),
    "machine_certain": Label("Machine", "machine"),
    "staff": Label("Staff", "machine"),
}
# The state a link had when it was opened; an active one needs no word.
OPEN_STATE_LABELS = {
    "expired": Label("Late", "warn"),
    "revoked": Label("Link revoked", "stop"),
    "portal_inactive": Label("Portal inactive", "warn"),
}
LINK_STATE_LABELS = {
    "active": Label("Active", "good"),
    "expired": Label("Expired", "warn"),
    "revoked": Label("Revoked", "stop"),
    "portal_inactive": Label("Portal inactive", "warn"),
}
DELIVERY_LABELS = {
    "queued": Label("Queued", "calm"),
    "sent": Label("Sent", "calm"),
    "delivered": Label("Delivered", "good"),
    "bounced": Label("Bounced", "stop"),
    "failed": Label("Failed", "stop"),
}
ON, OFF = Label("Active", "good"), Label("Inactive", "calm")
UNKNOWN = Label("Not known", "calm")

VERDICT_SENTENCES = {
    "person_confirmed": "Somebody used the page: there was a touch, a key or a click on it.",
    "person_likely": "The page was visible on a screen for two seconds or more.",
    "unconfirmed": "The page was requested. Nothing shows whether a person or a machine did it.",
    "machine_likely": "There are signs that a machine, not a person, requested the page.",
    "machine_certain": "The request says itself that it came from a machine, such as a mail scanner or a link preview.",
    "staff": "The request came from a network of your own agency.",
}
STATE_SENTENCES = {
    "expired": "This is a late open: the link had expired. The visitor saw a page that says so.",
    "revoked": "The link had been revoked. The visitor saw a page that says so.",
    "portal_inactive": "The portal was switched off. The visitor saw a page that says so.",
    "served_though_revoked": (
        "The link had been revoked before, but the change had not reached the public page yet: the visitor was served "
        "as if the link were active."
    ),
}
LIMITS = (
    "It does not prove that the client opened or read the page. Links are forwarded, phones are shared, and mail "
    "scanners and link previews open links too.",
    "Network and place are approximate. A VPN, a mobile network or a privacy relay shows an address far from the "
    "person.",
    "Device, browser and OS are what the browser says about itself. An iPad can look like a Mac.",
    "The absence of an open does not prove that a message was not read.",
)
