"""What an editor shows for a file of `bake init`: a real YAML language server reads the file and its schema.

scripts/setup --dev installs the server if npm is installed. Without the server, the tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

Bake = Callable[..., Any]
ROOT = Path(__file__).parents[2]


class Server:
    """A YAML language server, which is asked over its standard input and output."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.number = 0

    def send(self, method: str, params: Any, *, answered: bool = False) -> Any:
        assert self.process.stdin
        self.number += answered
        message = {"jsonrpc": "2.0", "method": method, "params": params, **({"id": self.number} if answered else {})}
        body = json.dumps(message).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()
        if answered:
            return self.wait(lambda one: one.get("id") == self.number and "method" not in one)["result"]
        return None

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        assert self.process.stdout
        while True:
            length = 0
            while line := self.process.stdout.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            message: dict[str, Any] = json.loads(self.process.stdout.read(length))
            if wanted(message):
                return message


@pytest.fixture
def server() -> Iterator[Server]:
    own = ROOT / "build/yaml-language-server/node_modules/.bin/yaml-language-server"
    program = str(own) if own.exists() else shutil.which("yaml-language-server")
    if program is None:
        pytest.skip("yaml-language-server is not installed")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([program, "--stdio"], **pipes) as process:  # type: ignore[call-overload]
        found = Server(process)
        root = Path.cwd().as_uri()
        found.send("initialize", {"processId": os.getpid(), "rootUri": root, "capabilities": {}}, answered=True)
        found.send("initialized", {})
        yield found
        with suppress(OSError):
            found.send("exit", None)
        process.kill()


def diagnostics(server: Server, path: Path, text: str) -> list[str]:
    uri = path.absolute().as_uri()
    document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
    server.send("textDocument/didOpen", {"textDocument": document})
    found = server.wait(
        lambda one: one.get("method") == "textDocument/publishDiagnostics" and one["params"]["uri"] == uri
    )
    return [one["message"] for one in found["params"]["diagnostics"]]


def test_an_editor_knows_the_fields(bake: Bake, server: Server) -> None:
    bake("init")
    path = Path("cluster.yaml")
    text = path.read_text()
    assert diagnostics(server, path, text) == []
    at = {"line": text.splitlines().index("nodes: 3"), "character": 1}
    hover = server.send(
        "textDocument/hover", {"textDocument": {"uri": path.absolute().as_uri()}, "position": at}, answered=True
    )
    assert "the number of nodes" in json.dumps(hover)
    assert diagnostics(server, Path("b.yaml"), text.replace("nodes: 3", "nodes: 9\nnodez: 1"))
    assert any("nodez" in one for one in diagnostics(server, Path("c.yaml"), text.replace("nodes: 3", "nodez: 3")))
