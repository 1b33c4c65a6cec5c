"""Who and what the demo is about: made-up people, agents as browsers send them, addresses of well-known networks."""

PORTALS: tuple[dict[str, object], ...] = (
    {
        "display_name": "Hearing information",
        "kind": "hosted",
        "pages": [
            {
                "slug": "hearing-details",
                "title": "Your hearing",
                "markdown": "Your hearing is at **Demo County Court**, 200 Main Street, Courtroom 3B.\n\n"
                "Arrive 30 minutes early and bring this notice and a photo ID.\n\n"
                "- Doors open at 8:00 a.m.\n- Parking is behind the building.\n- Children may wait in room 110.",
            },
            {
                "slug": "payment",
                "title": "Fines and payment",
                "markdown": "You can pay at the clerk's window, by mail or by phone.\n\n"
                "If you cannot pay now, ask for a payment plan **before** your hearing.",
            },
            {
                "slug": "help",
                "title": "If you need help",
                "markdown": "You may have a lawyer. If you cannot afford one, ask for a public defender.\n\n"
                "Interpreters are free. Call the clerk at 555-0142.",
            },
        ],
    },
    {
        "display_name": "Probation check-in",
        "kind": "hosted",
        "pages": [
            {
                "slug": "check-in",
                "title": "How to check in",
                "markdown": "Check in with your officer by phone every Tuesday between 9 a.m. and noon: 555-0177.",
            }
        ],
    },
    {"display_name": "Online payment", "kind": "external", "target_uri": "https://pay.example.gov/fines"},
)

FIRST_NAMES = [
    "Ana", "Marcus", "Priya", "Deshawn", "Elena", "Tomás", "Grace", "Viktor", "Aaliyah", "Hiroshi",
    "Fatima", "Liam", "Rosa", "Omar", "Chloé", "Andre", "Mei", "Jonah", "Camila", "Isaac",
]  # fmt: skip
LAST_NAMES = ["Rivera", "Johnson", "Patel", "Washington", "Petrov", "García", "Kim", "Novak", "Brooks", "Tanaka"]

REDIRECTS = (
    ("Self-help center", "https://www.example.gov/self-help"),
    ("Parking map", "https://www.example.gov/parking"),
)

_APPLE = "Mozilla/5.0 ({}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{} {}Safari/{}"
_CHROMIUM = "Mozilla/5.0 ({}) AppleWebKit/537.36 (KHTML, like Gecko) {} Safari/537.36{}"
_WINDOWS = "Windows NT 10.0; Win64; x64"

# Agents as phones, tablets and desktops send them; the number says how common each is among the demo's visitors.
PEOPLE_AGENTS: tuple[tuple[int, str], ...] = (
    (9, _APPLE.format("iPhone; CPU iPhone OS 18_6 like Mac OS X", "18.6", "Mobile/15E148 ", "604.1")),
    (5, _APPLE.format("iPhone; CPU iPhone OS 17_5_1 like Mac OS X", "17.5", "Mobile/15E148 ", "604.1")),
    (2, _APPLE.format("iPhone; CPU iPhone OS 15_8 like Mac OS X", "15.6.6", "Mobile/15E148 ", "604.1")),
    (2, _APPLE.format("iPad; CPU OS 12_5_7 like Mac OS X", "12.1.2", "Mobile/15E148 ", "604.1")),
    (3, _APPLE.format("Macintosh; Intel Mac OS X 10_15_7", "18.5", "", "605.1.15")),
    (8, _CHROMIUM.format("Linux; Android 10; K", "Chrome/141.0.0.0 Mobile", "")),
    (4, _CHROMIUM.format("Linux; Android 14; SM-A156U", "SamsungBrowser/27.0 Chrome/125.0.0.0 Mobile", "")),
    (2, _CHROMIUM.format("Linux; Android 8.1.0; moto e5 play", "Chrome/109.0.5414.117 Mobile", "")),
    (1, _CHROMIUM.format("Linux; Android 13; SM-T220", "Chrome/140.0.0.0", "")),
    (5, _CHROMIUM.format(_WINDOWS, "Chrome/141.0.0.0", "")),
    (3, _CHROMIUM.format(_WINDOWS, "Chrome/141.0.0.0", " Edg/141.0.0.0")),
    (1, _CHROMIUM.format("X11; CrOS x86_64 14541.0.0", "Chrome/139.0.0.0", "")),
    (2, f"Mozilla/5.0 ({_WINDOWS}; rv:143.0) Gecko/20100101 Firefox/143.0"),
    (1, "Mozilla/5.0 (Android 14; Mobile; rv:143.0) Gecko/143.0 Firefox/143.0"),
    (1, "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
)

# What looks at links before or instead of people.
MACHINE_AGENTS = (
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "WhatsApp/2.23.20.0",
    "curl/8.5.0",
    "python-requests/2.32.3",
    "",
)

# One or two addresses in networks that everybody knows: phones, homes, and where scanners live.
PEOPLE_ADDRESSES = (
    "172.56.21.89",  # T-Mobile
    "2607:fb90:1234::1",
    "174.203.10.7",  # Verizon Wireless
    "107.77.200.5",  # AT&T mobility
    "73.162.1.1",  # Comcast
    "24.5.6.7",
    "2601:600::1",
    "108.35.1.1",  # Verizon
    "2600:1700:1::1",  # AT&T
    "68.173.10.20",  # Charter
    "98.97.1.1",  # Starlink
)
MACHINE_ADDRESSES = ("66.249.66.1", "40.94.20.1", "3.80.10.10", "69.171.250.1", "67.231.152.10")
LANGUAGES = ("en-US,en;q=0.9", "en-US,en;q=0.9", "en-US,en;q=0.9", "es-US,es;q=0.9,en;q=0.8", "es-MX", "vi-VN", "zh-CN")
