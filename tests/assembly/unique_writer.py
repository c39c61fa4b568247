"""Write unique keys to a cluster until stdin is closed, then read them again, and print the result as JSON.

`unique_writer.py PKI CLIENT PREFIX URL…`. Like an application, the writer keeps one connection, and tries the next URL
if a write fails. A key counts as acknowledged only if a node answered its write.
"""

from __future__ import annotations

import json
import select
import sys
import time
from pathlib import Path

from generator.errors import BakeError
from generator.etcd.client import Etcd
from generator.etcd.tls_probe import ClientFiles

PAUSE = 0.02  # seconds between two writes
NOTED = 0.1  # the shortest gap between two acknowledged writes that the result has, in seconds
TIMEOUT = (1.0, 2.0)


class Writer:
    """Writes keys. `gaps`: the start (seconds since the epoch) and the length of each gap between two writes."""

    def __init__(self, files: ClientFiles, prefix: str, urls: list[str]) -> None:
        self.prefix = prefix
        self.clients = [Etcd(url, files, timeout=TIMEOUT) for url in urls]
        self.done = self.refused = 0
        self.gaps: list[tuple[float, float]] = []
        self.causes: dict[str, int] = {}

    def run(self) -> None:
        last = time.time()
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            if not self._write():
                continue
            now = time.time()
            if now - last > NOTED:
                self.gaps.append((last, now - last))
            last = now
        self.gaps.append((last, time.time() - last))

    def _write(self) -> bool:
        try:
            self.clients[0].put(f"{self.prefix}{self.done}".encode(), b"")
        except BakeError as error:
            self.refused += 1
            self.causes[str(error)] = self.causes.get(str(error), 0) + 1
            self.clients.append(self.clients.pop(0))
            return False
        self.done += 1
        return True

    def result(self) -> dict[str, object]:
        found = self._found()
        missing = [number for number in range(self.done) if f"{self.prefix}{number}" not in found]
        return {
            "done": self.done, "refused": self.refused, "gaps": self.gaps, "missing": missing, "causes": self.causes,
        }  # fmt: skip

    def _found(self) -> set[str]:
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = self.clients[0].get(self.prefix.encode(), prefix=True, keys_only=True)
                return {item.key.decode() for item in answer.items}
            except BakeError:
                if time.monotonic() > deadline:
                    raise
                self.clients.append(self.clients.pop(0))


def main(pki: Path, client: str, prefix: str, urls: list[str]) -> None:
    files = ClientFiles(ca=pki / "etcd-ca.pem", cert=pki / f"{client}.pem", key=pki / f"{client}.key")
    writer = Writer(files, prefix, urls)
    writer.run()
    print(json.dumps(writer.result()))
    for each in writer.clients:
        each.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4], sys.argv[4:])
