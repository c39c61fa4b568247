"""The configuration of an application by its kind."""

from __future__ import annotations

from generator.clients import generic, kubernetes, patroni, prometheus
from generator.clients.application import Application, Configuration, Kind
from generator.config.spec import FirewallKind
from generator.config.values import SUBNET

_CONFIGURATIONS = {
    Kind.KUBERNETES: kubernetes.configuration,
    Kind.PATRONI: patroni.configuration,
    Kind.PROMETHEUS: prometheus.configuration,
    Kind.GENERIC: generic.configuration,
}
# Where the application finds its files by default. Other programs read them in the cluster's folder.
FOLDERS: dict[Kind, str | None] = {
    Kind.KUBERNETES: kubernetes.FOLDER,
    Kind.PATRONI: patroni.FOLDER,
    Kind.PROMETHEUS: prometheus.FOLDER,
    Kind.GENERIC: None,
}


def configuration(app: Application) -> Configuration:
    """Return the files and the steps with which an application connects to its cluster."""
    found = _CONFIGURATIONS[app.kind](app)
    firewall = app.plan.spec.firewall
    if firewall.kind is FirewallKind.NONE or not firewall.client_cidrs:
        return found
    networks = (app.plan.network.subnet if one == SUBNET else one for one in firewall.client_cidrs)
    allowed = ", ".join(map(str, networks))
    step = f"the nodes accept clients only from {allowed}; if the application is elsewhere, set firewall.clientCidrs"
    return found._replace(steps=(*found.steps, step))


def needs_password(kind: Kind, *, auth: bool) -> bool:
    """Return whether the application's etcd user has a password."""
    return auth and kind is Kind.PATRONI


def access_note(app: Application) -> str:
    """Return a sentence about what a thief of the application's key can do."""
    if not app.auth:
        text = "etcd's authentication is off, so this certificate permits everything in etcd"
        return f"{text}; to limit it, set auth in the cluster file"
    if app.password is not None:
        return f"this certificate permits nothing without the password of the etcd user {app.name!r}"
    if app.kind is Kind.PROMETHEUS and app.name not in app.plan.spec.auth.common_names:
        return f"etcd has no user {app.name!r}, so this certificate reads metrics, but no key"
    return f"this certificate has the permissions of the etcd user {app.name!r}"
