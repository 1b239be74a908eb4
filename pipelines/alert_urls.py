"""Addresses of alert channels, as apprise writes them: which services there are, and what of an address is secret.

Pure, so that web and beat need not load apprise for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus, urlsplit

MAX_LENGTH = 4000

# All of these speak HTTPS, HTTP or SMTP to a host, and start nothing on this machine. The first kind has a host of
# the user's own in its address, which may be told; of the others each part may be a token.
OWN_HOST = {
    "mailto": "E-mail",
    "mailtos": "E-mail",
    "json": "Webhook (JSON)",
    "jsons": "Webhook (JSON)",
    "xml": "Webhook (XML)",
    "xmls": "Webhook (XML)",
    "form": "Webhook (form)",
    "forms": "Webhook (form)",
    "apprise": "Apprise API",
    "apprises": "Apprise API",
    "gotify": "Gotify",
    "gotifys": "Gotify",
    "hassio": "Home Assistant",
    "hassios": "Home Assistant",
    "matrix": "Matrix",
    "matrixs": "Matrix",
    "mmost": "Mattermost",
    "mmosts": "Mattermost",
    "ncloud": "Nextcloud",
    "nclouds": "Nextcloud",
    "nctalk": "Nextcloud Talk",
    "nctalks": "Nextcloud Talk",
    "rocket": "Rocket.Chat",
    "rockets": "Rocket.Chat",
    "signal": "Signal (API)",
    "signals": "Signal (API)",
    "synology": "Synology Chat",
    "synologys": "Synology Chat",
}
HOSTED = {
    "bark": "Bark",
    "barks": "Bark",
    "betterstack": "Better Stack",
    "brevo": "Brevo",
    "dingtalk": "DingTalk",
    "discord": "Discord",
    "feishu": "Feishu",
    "firehydrant": "FireHydrant",
    "flock": "Flock",
    "gchat": "Google Chat",
    "goalert": "GoAlert",
    "goalerts": "GoAlert",
    "ilert": "ilert",
    "incidentio": "incident.io",
    "jira": "Jira Service Management",
    "lark": "Lark",
    "line": "LINE",
    "mailgun": "Mailgun",
    "mastodon": "Mastodon",
    "mastodons": "Mastodon",
    "ntfy": "ntfy",
    "ntfys": "ntfy",
    "o365": "Office 365 mail",
    "opsgenie": "Opsgenie",
    "pagerduty": "PagerDuty",
    "pagertree": "PagerTree",
    "pbul": "Pushbullet",
    "postmark": "Postmark",
    "pover": "Pushover",
    "resend": "Resend",
    "ryver": "Ryver",
    "sendgrid": "SendGrid",
    "ses": "Amazon SES",
    "signl4": "SIGNL4",
    "slack": "Slack",
    "sns": "Amazon SNS",
    "sparkpost": "SparkPost",
    "spike": "Spike.sh",
    "splunk": "Splunk On-Call",
    "squadcast": "SquadCast",
    "tgram": "Telegram",
    "threema": "Threema",
    "twilio": "Twilio SMS",
    "twist": "Twist",
    "victorops": "Splunk On-Call",
    "vonage": "Vonage SMS",
    "webex": "Webex",
    "wecombot": "WeCom",
    "workflow": "Microsoft Teams",
    "workflows": "Microsoft Teams",
    "xmatters": "xMatters",
    "zulip": "Zulip",
}
SERVICES = OWN_HOST | HOSTED
# What is sent there opens or closes something: two messages in one would leave things open, or never open them.
KEEPS_INCIDENTS = frozenset(
    {"betterstack", "firehydrant", "goalert", "goalerts", "ilert", "incidentio", "jira", "opsgenie", "pagerduty"}
    | {"pagertree", "signl4", "spike", "splunk", "squadcast", "victorops", "xmatters"}
)

# They would read a file of the machine that sends.
LOCAL_FILES = frozenset({"template", "pgpkey", "pgp", "keyfile", "attach", "pem", "pemkey"})
SHORTEST_SECRET = 3
# Shorter ones are looked for as words only: "hook" of a path must not be cut out of "hooks".
LONG_SECRET = 8
HIDDEN = "***"
_HOST = "\x00"

# Said in the forms.
HELP = (
    "As apprise writes it, for example slack://TokenA/TokenB/TokenC, mailtos://user:password@smtp.example.com?to=me@"
    "example.com, workflows://…, pagerduty://key@source, jsons://hooks.example.com/path. It is encrypted and never "
    "shown again."
)


def scheme_of(url: str) -> str:
    return url.partition("://")[0].strip().lower()


def service_of(url: str) -> str:
    """The name of the service that an address is of; empty for one that may not be used."""
    return SERVICES.get(scheme_of(url), "")


@dataclass(frozen=True)
class Objection:
    """What stands against an address."""

    code: str
    message: str
    hint: str


def objection(url: str) -> Objection | None:
    """None for an address that may be used, if it is right: only its service can tell that."""
    scheme = scheme_of(url)
    if len(url) > MAX_LENGTH or "://" not in url or any(ord(letter) < 32 for letter in url):
        return Objection(
            "channel_address", "This is not the address of a channel.", "Write it like slack://… or mailtos://…"
        )
    if scheme not in SERVICES:
        known = ", ".join(sorted(SERVICES))
        return Objection(
            "channel_scheme",
            f"Alerts are not sent by {scheme}://: it is unknown, or would run something on this machine.",
            f"There are: {known}. A Microsoft Teams address begins with workflows://.",
        )
    local = sorted({name.lower() for name, _ in _query(url)} & LOCAL_FILES)
    if local:
        return Objection(
            "channel_reads_files",
            f"The address may not have {local[0]}=: it would read a file of the machine that sends.",
            "Leave it out.",
        )
    return None


def scrub(text: str, url: str) -> str:
    """The text without any part of the address that may be secret."""
    rest = url.partition("://")[2]
    if not rest:
        return text
    host, port = _own_host(url)
    text = text.replace(url, HIDDEN)
    if host:
        # An error that does not name the host helps nobody, whatever else of the address looks like a part of it.
        text = text.replace(host, _HOST)
    for secret in sorted(set(_secrets(url)) - {host, port}, key=len, reverse=True):
        if len(secret) >= LONG_SECRET:
            text = text.replace(secret, HIDDEN)
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return text.replace(_HOST, host)


def _own_host(url: str) -> tuple[str, str]:
    """Host and port of a server of the user's own; of hosted services both may be tokens."""
    if scheme_of(url) not in OWN_HOST:
        return "", ""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", str(parts.port or "")
    except ValueError:
        return "", ""


def _secrets(url: str) -> Iterator[str]:
    """Each part of an address that may be secret, as it is written there and as a client may write it."""
    rest = url.partition("://")[2]
    names = {name.lower() for name, _ in _query(url)} | {"yes", "true", "http", "https"}
    # Taken apart by hand: what an address means, its service decides.
    pieces = [piece for piece in re.split(r"[/@:?&=,\s]+", rest) if piece]
    pieces += [piece for piece in re.split(r"[/@,\s]+", rest.partition("?")[0]) if piece]
    pieces += [value for _, value in _query(url)]
    for piece in pieces:
        for form in {piece, unquote(piece), unquote_plus(piece), quote(piece, safe=""), quote_plus(piece)}:
            if len(form) >= SHORTEST_SECRET and form.lower() not in names:
                yield form


def _query(url: str) -> list[tuple[str, str]]:
    # apprise takes `;` for `&`.
    return parse_qsl(url.partition("?")[2].partition("#")[0].replace(";", "&"), keep_blank_values=True)
