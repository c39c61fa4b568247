"""The section `etcd3` of Patroni's configuration.

Patroni sends its requests to etcd's JSON gateway. With etcd's authentication, the gateway refuses certificates with a
common name, and takes the user from a password. So Patroni's certificate has no common name.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from generator.artifact import Artifact
from generator.clients.access import role_for
from generator.clients.application import CA, CERTIFICATE, KEY, PASSWORD, Application, Configuration, Kind, text_file
from generator.config import yaml12

FOLDER = "/etc/patroni/etcd"
ENVIRONMENT = "patroni.env"


def configuration(app: Application) -> Configuration:
    """Return Patroni's section `etcd3` and, with authentication, its environment with user name and password."""
    files = {"cacert": CA, "cert": CERTIFICATE, "key": KEY}
    section = {"hosts": app.hosts, "protocol": "https", **{name: app.path(file) for name, file in files.items()}}
    shown = (text_file("patroni.yml", yaml12.dump({"etcd3": section})),)
    steps = (
        f"copy {CA}, {CERTIFICATE} and {KEY} to {app.folder} on each machine with Patroni; Patroni's account must be "
        f"able to read {KEY}",
        "add the section etcd3 to Patroni's configuration",
    )
    if app.password is None:
        return Configuration(shown=shown, steps=steps)
    # Patroni 4.1 ignores these variables unless there is another variable with the same prefix.
    values = {"PROTOCOL": "https", "USERNAME": app.name, "PASSWORD": app.password}
    lines = "".join(f"PATRONI_ETCD3_{name}={value}\n" for name, value in values.items())
    secret = Artifact(PurePosixPath(ENVIRONMENT), lines.encode(), mode=0o600, secret=True)
    password = Artifact(PASSWORD, f"{app.password}\n".encode(), mode=0o600, secret=True)
    role = role_for(app.plan.spec.auth, Kind.PATRONI)
    return Configuration(
        shown=shown,
        others=(secret, password),
        steps=(
            f"create the etcd user: {app.etcdctl} user add {app.name} --interactive=false <{app.home / PASSWORD}",
            f"give the user its role: {app.etcdctl} user grant-role {app.name} {role}",
            *steps,
            f"let Patroni's service read {ENVIRONMENT}, which contains the password: "
            f"EnvironmentFile={app.path(PurePosixPath(ENVIRONMENT))}",
        ),
    )
