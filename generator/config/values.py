"""Functions that check and convert values from YAML files and flags.

Each function raises ValueError for an invalid value.
"""

from __future__ import annotations

import re
from base64 import b64decode
from enum import StrEnum
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from generator.config.fields import Parse, Schema, accepts, no_integer, shown_value
from generator.layout import FOLDER_NAMES

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_QUOTE, _UNQUOTE = "; put it in quotes", "; remove the quotes"
_ADDRESS = "[0-9A-Fa-f:.]{2,45}"


def _refuse(value: object, rule: str) -> ValueError:
    return ValueError(f"{shown_value(value)} {rule}")


def _whole_text(pattern: str) -> str:
    """Return a pattern that matches only a whole text, for a JSON Schema."""
    return f"^({pattern})$"


def _label(value: object, limit: int) -> str:
    """Return a lower-case RFC 1123 label with at most `limit` characters.

    A label with only digits is invalid, because some programs read a number as an IP address.
    """
    if not isinstance(value, str):
        raise _refuse(value, f"is not a string{_QUOTE * isinstance(value, int | float)}")
    if not _LABEL.fullmatch(value) or len(value) > limit:
        rule = f"is not a host name label: 1 to {limit} of a-z, 0-9 and '-', no '-' at either end (RFC 1123)"
        raise _refuse(value, rule)
    if value.isdigit():
        raise _refuse(value, "is all digits; a host name must not be a number")
    return value


_NAME: Schema = {"type": "string", "pattern": _whole_text(_LABEL.pattern)}
name = Parse(partial(_label, limit=63), _NAME)
# The names of VMs and networks contain the cluster's name.
cluster_name = Parse(partial(_label, limit=40), {**_NAME, "maxLength": 40})


@accepts(**_NAME)
def node_name(value: object) -> str:
    """Return a node's name. The names in FOLDER_NAMES are invalid, because bake uses them for files and folders."""
    if name(value) in FOLDER_NAMES:
        raise _refuse(value, "is reserved: bake uses this name in the cluster's folder")
    return name(value)


@accepts(type="string", pattern=_whole_text(rf"{_LABEL.pattern}(\.{_LABEL.pattern})+"), maxLength=200)
def domain(value: object) -> str:
    """Return a DNS domain: at least two RFC 1123 labels with dots between them, at most 200 characters in total."""
    if not isinstance(value, str) or "." not in value or len(value) > 200:
        raise _refuse(value, "is not a domain of two or more labels")
    if not all(_LABEL.fullmatch(label) for label in value.split(".")):
        raise _refuse(value, "has a label that is not valid (RFC 1123)")
    return value


@accepts(type="string", pattern=_whole_text(_ADDRESS))
def address(value: object) -> IPv4Address | IPv6Address:
    """Return an IPv4 or IPv6 address in its usual notation: no prefix length, no zone, no leading zeros."""
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    if not isinstance(value, str) or "%" in value or not value.isascii():
        raise _refuse(value, "is not an IP address")
    try:
        found = ip_address(value)
    except ValueError:
        raise _refuse(value, "is not an IP address") from None
    if isinstance(found, IPv6Address) and found.ipv4_mapped:
        raise _refuse(value, "is an IPv4-mapped IPv6 address; write the IPv4 address")
    return found


@accepts(type="string", pattern=_whole_text(f"{_ADDRESS}/[0-9.]+"))
def network(value: object) -> IPv4Network | IPv6Network:
    """Return a network in CIDR notation with no host bits set."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str) or "/" not in value or "%" in value or not value.isascii():
        raise _refuse(value, "is not a network in CIDR notation")
    try:
        return ip_network(value)
    except ValueError as error:
        rule = "has host bits set" if "host bits" in str(error) else "is not a network in CIDR notation"
        raise _refuse(value, rule) from None


SUBNET = "subnet"


@accepts(type="string", pattern=_whole_text(f"{SUBNET}|{_ADDRESS}/[0-9.]+"))
def network_or_subnet(value: object) -> IPv4Network | IPv6Network | str:
    """Return a network, or the word `subnet`, which means the cluster's subnet."""
    return SUBNET if value == SUBNET else network(value)


def text(value: object, *, limit: int) -> str:
    """Return a text of printable ASCII with at most `limit` characters, for certificates, YAML files and env files."""
    if not isinstance(value, str):
        raise _refuse(value, f"is not a string{_QUOTE * isinstance(value, int | float)}")
    if not _PRINTABLE.fullmatch(value):
        raise _refuse(value, "has characters other than printable ASCII")
    if not 0 < len(value) <= limit:
        raise _refuse(value, f"is not 1 to {limit} characters long")
    return value


def _matching(pattern: str, rule: str) -> Parse[str]:
    """Return a function that accepts only text that matches `pattern`. `rule`: the message for other values."""

    @accepts(type="string", pattern=_whole_text(pattern))
    def parse(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise _refuse(value, rule)
        return value

    return parse


_mac = _matching(
    r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", "is not a MAC address: six pairs of 0-9 and a-f in lower case, with colons"
)


@accepts(**_mac.schema)
def mac(value: object) -> str:
    """Return a unicast MAC address in lower case. networkd compares MAC addresses as text."""
    found = _mac(value)
    if int(found[:2], 16) & 1 or found == "00:00:00:00:00:00":
        raise _refuse(value, "is not a unicast address")
    return found


sha256 = _matching(r"[0-9a-f]{64}", "is not a sha256: 64 hexadecimal digits in lower case")
token = _matching(r"[A-Za-z0-9._-]{1,64}", "is not 1 to 64 letters, digits, '.', '_' or '-'")
interface = _matching(  # the name of a network interface of Linux (netdevice(7): at most 15 characters)
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}",
    "is not 1 to 15 letters, digits, '.', '_' or '-', beginning with a letter or digit",
)
libvirt_name = _matching(  # libvirt refuses a slash in the name of an object
    r"[A-Za-z0-9_.][A-Za-z0-9._:+-]{0,99}", "is not 1 to 100 letters, digits or ._:+-"
)
_URI = re.compile(
    r"qemu(\+[a-z0-9]+)?://([A-Za-z0-9._-]+@)?([A-Za-z0-9._-]*|\[[0-9a-fA-F:]+\])(:[0-9]+)?/system"
    r"(\?[A-Za-z0-9=&%._/,@:-]*)?"
)


@accepts(type="string", pattern=_whole_text(_URI.pattern))
def libvirt_uri(value: object) -> str:
    """Return a URI of libvirt's driver for QEMU. libvirt takes no password in a URI, so an error does not show one."""
    if not isinstance(value, str) or not _URI.fullmatch(value):
        shown = re.sub(r"//[^@/]*@", "//…@", value) if isinstance(value, str) else value
        raise _refuse(shown, "is not a URI such as qemu:///system or qemu+ssh://root@host/system")
    return value


incus_url = _matching(
    r"https://([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}", "is not a URL such as https://host2:8443"
)
folder = _matching(r"(/[A-Za-z0-9._-]+)+", "is not an absolute path of letters, digits, '.', '_' and '-'")
account = _matching(  # an etcd user or role; in a certificate's common name, in file names and in commands
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    "is not 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
)
_account_on_node = _matching(
    r"[A-Za-z_][A-Za-z0-9._-]{0,31}",
    "is not a user name: 1 to 32 letters, digits, '.', '_' or '-', beginning with a letter or '_'",
)


@accepts(**_account_on_node.schema)
def reader(value: object) -> str:
    """Return the name of an account on the nodes.

    Characters that need quotes in a shell are invalid, because shell commands on the nodes contain the name.
    """
    if _account_on_node(value) in ("root", "etcd"):
        raise _refuse(value, "is not needed: this account can read every key already")
    return str(value)


_SSH_KEY = re.compile(
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r" (?P<base64>[A-Za-z0-9+/]{64,}={0,2})( [ -~]{1,200})?"
)


@accepts(type="string", pattern=_whole_text(_SSH_KEY.pattern.replace("?P<base64>", "")))
def ssh_key(value: object) -> str:
    """Return a public key as in a line of authorized_keys (sshd(8)), without options. No error shows a private key."""
    if "PRIVATE KEY" in str(value):
        raise ValueError("is a private key; give the public key, such as the content of id_ed25519.pub")
    found = _SSH_KEY.fullmatch(value) if isinstance(value, str) else None
    # The base64 text begins with the type's length and the type (RFC 4253, section 6.6).
    if not found or b64decode(found["base64"][:64])[4:].split(b"\0")[0] != found[1].encode():
        raise _refuse(value, "is not an SSH public key, such as the content of id_ed25519.pub")
    return found[0]


key = _matching(r"[A-Za-z0-9._/:@+=,-]{1,256}", "is not 1 to 256 letters, digits or ._/:@+=,-")
country = _matching(r"[A-Z]{2}", "is not two capital letters (ISO 3166)")
# A package of dpkg or rpm, optionally with a version, but not a text that apt reads as an option, such as `-y`.
package = _matching(r"[A-Za-z0-9][A-Za-z0-9.+:~=_-]{0,127}", "is not a package name")


@accepts(type=["boolean", "number", "string"])
def option(value: object) -> object:
    if not isinstance(value, bool | int | float | str):
        raise _refuse(value, "is not a number, true, false or text")
    return value


ETCD_SERIES = ("3.5", "3.6")
# Go's cipher suites for TLS 1.2 with forward secrecy and authenticated encryption.
CIPHER_SUITES = tuple(
    f"TLS_ECDHE_{kind}_WITH_{cipher}"
    for kind in ("ECDSA", "RSA")
    for cipher in ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256")
)


# etcd.service may write to no other folder.
data_dir = _matching(r"/var/lib/etcd(/[A-Za-z0-9_][A-Za-z0-9._-]*)+", "is not a path below /var/lib/etcd")


@accepts(type="boolean")
def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse(value, f"is not true or false{_UNQUOTE * (value in ('true', 'false'))}")
    return value


def whole(low: int | None = None, high: int | None = None) -> Parse[int]:
    """Return a function that reads a whole number from `low` to `high`, both included."""
    limits = {"minimum": low, "maximum": high}

    @accepts(type="integer", **{key: limit for key, limit in limits.items() if limit is not None})
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _refuse(value, f"is not a valid integer{no_integer(value)}")
        if low is not None and value < low:
            raise _refuse(value, f"is less than {low}")
        if high is not None and value > high:
            raise _refuse(value, f"is more than {high}")
        return value

    return parse


def word(kind: type[StrEnum]) -> Parse[StrEnum]:
    """Return a function that reads a value of the enumeration `kind`."""
    parse = choice(*kind)
    return Parse(lambda value: kind(parse(value)), parse.schema)


def choice(*words: str) -> Parse[str]:
    """Return a function that accepts only the values in `words`."""

    @accepts(type="string", enum=[str(word) for word in words])
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise _refuse(value, f"is not one of {', '.join(words)}" if len(words) > 1 else f"is not {words[0]}")
        return value

    return parse


def release(*releases: str) -> Parse[str]:
    """Return a function that accepts only the versions in `releases`, also as numbers: YAML reads `3.6` as a number."""
    parse, numbers = choice(*releases), [float(each) for each in releases]
    return Parse(
        lambda value: parse(str(value) if isinstance(value, float) else value),
        {"type": ["string", "number"], "enum": [*releases, *numbers]},
    )


def _text_of(limit: int) -> Parse[str]:
    limits = {"minLength": 1, "maxLength": limit}
    return Parse(partial(text, limit=limit), {"type": "string", "pattern": _whole_text(_PRINTABLE.pattern), **limits})


text64 = _text_of(64)
path_text = _text_of(1024)
port = whole(1, 65535)
days = whole(2, 36500)  # bake backdates certificates by one day: a certificate for 1 day would expire immediately
