"""What a page says after a change.

The cookie that survives the redirect carries only a code of this table, so nobody can put words on a page.
"""

COOKIE = "opennotice-note"
SECONDS = 30

NOTES = {
    "client-created": "The client was added.",
    "client-changed": "The client was changed.",
    "link-revoked": "The link was revoked. Visitors see that it has ended; their opens are still recorded.",
    "link-changed": "The expiry of the link was changed.",
    "portal-created": "The portal was created.",
    "portal-changed": "The portal was changed.",
    "portal-on": "The portal is switched on. Its links lead to it again.",
    "portal-off": "The portal is switched off. Visitors see that it is not available; their opens are still recorded.",
    "redirect-changed": "The redirect was changed.",
    "redirect-on": "The redirect is switched on.",
    "redirect-off": "The redirect is switched off.",
    "password-changed": "Your password was changed. Your other sessions have ended.",
}
