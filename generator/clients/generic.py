"""The configuration of other programs: environment variables for etcdctl, and an example in Python."""

from __future__ import annotations

import shlex

from generator.clients.application import CA, CERTIFICATE, KEY, Application, Configuration, text_file

_CHANNEL = '''\
"""Connect to etcd. Needs Python's package grpcio."""

from pathlib import Path

import grpc

folder = Path({folder!r})
credentials = grpc.ssl_channel_credentials(
    root_certificates=(folder / "{ca}").read_bytes(),
    private_key=(folder / "{key}").read_bytes(),
    certificate_chain=(folder / "{certificate}").read_bytes(),
)
with grpc.secure_channel({host!r}, credentials) as channel:  # pass the channel to the stubs of your etcd client
    health = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
print("gRPC:", "serving" if health == b"\\x08\\x01" else health)
'''
# With authentication, the gateway refuses certificates with a common name.
_GATEWAY = '''
# etcd's JSON gateway needs only the standard library, while etcd's authentication is off.
import base64
import json
import ssl
import urllib.request

context = ssl.create_default_context(cafile=folder / "{ca}")
context.load_cert_chain(folder / "{certificate}", folder / "{key}")


def call(method, **fields):
    body = json.dumps({{name: base64.b64encode(value).decode() for name, value in fields.items()}}).encode()
    with urllib.request.urlopen("{url}/v3/kv/" + method, body, 10, context=context) as answer:
        return json.load(answer)


call("put", key=b"greeting", value=b"hello")
found = call("range", key=b"greeting")["kvs"][0]
print("gateway:", base64.b64decode(found["value"]).decode())
'''


def configuration(app: Application) -> Configuration:
    """Return environment variables for etcdctl, and an example in Python."""
    values = {
        "API": "3", "ENDPOINTS": ",".join(app.endpoints), "CACERT": app.path(CA), "CERT": app.path(CERTIFICATE),
        "KEY": app.path(KEY),
    }  # fmt: skip
    environment = "".join(f"export ETCDCTL_{name}={shlex.quote(value)}\n" for name, value in values.items())
    code = (_CHANNEL if app.auth else _CHANNEL + _GATEWAY).format(
        folder=str(app.folder), ca=CA, key=KEY, certificate=CERTIFICATE, host=app.hosts[0], url=app.endpoints[0]
    )
    return Configuration(
        shown=(text_file("etcdctl.env", environment), text_file("example.py", code)),
        steps=(f"if the program runs on another machine, copy the files to {app.folder} there",),
    )
