"""Write unique keys to a cluster until stdin is closed, then read them again, and print the result as JSON.

`unique_writer.py PKI CLIENT PREFIX URL…`. Like an application, the writer keeps one connection, and tries the next URL
if a write fails. Each new connection reads the CA and the client's certificate again, so the writer follows a new CA.
A key counts as acknowledged only if a node answered its write.

Meanwhile, three more clients read and write two other keys through different nodes. The result has the history of these
operations, so that `linearizable.flaws` can check it.
"""

from __future__ import annotations

import json
import select
import sys
import threading
import time
from pathlib import Path
from random import Random

from generator.errors import BakeError
from generator.etcd.client import Etcd
from generator.etcd.tls_probe import ClientFiles
from tests.assembly.linearizable import Op

PAUSE = 0.02  # seconds between two writes
NOTED = 0.1  # the shortest gap between two acknowledged writes that the result has, in seconds
TIMEOUT = (1.0, 2.0)
CLIENTS = 3


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
            "found": len(found),
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


class Client(threading.Thread):
    """Reads and writes two keys, and records each operation. `prefix`: of the two keys."""

    def __init__(self, files: ClientFiles, prefix: str, urls: list[str], number: int) -> None:
        super().__init__(daemon=True)
        self.keys, self.number = [f"{prefix}a", f"{prefix}b"], number
        turned = [*urls[number:], *urls[:number]]
        self.etcds = [Etcd(url, files, timeout=TIMEOUT) for url in turned]
        self.random, self.over = Random(number), threading.Event()  # noqa: S311  no secret
        self.history: list[Op] = []

    def run(self) -> None:
        count = 0
        while not self.over.wait(PAUSE):
            count += 1
            key, begin = self.random.choice(self.keys), time.monotonic()
            value = f"{self.number}/{count}" if self.random.random() < 0.5 else None
            try:
                op = self._write(key, value, begin) if value else self._read(key, begin)
            except BakeError:
                self.etcds.append(self.etcds.pop(0))
                if not value:
                    continue
                op = Op(True, key, value, None, begin, float("inf"))
            self.history.append(op)
        for etcd in self.etcds:
            etcd.close()

    def _write(self, key: str, value: str, begin: float) -> Op:
        answer = self.etcds[0]._call("KV/Put", key=key.encode(), value=value.encode())
        return Op(True, key, value, answer.header.revision, begin, time.monotonic())

    def _read(self, key: str, begin: float) -> Op:
        found = self.etcds[0].get(key.encode())
        value = found.items[0].value.decode() if found.items else None
        return Op(False, key, value, found.revision, begin, time.monotonic())


def main(pki: Path, client: str, prefix: str, urls: list[str]) -> None:
    files = ClientFiles(ca=pki / "etcd-ca.pem", cert=pki / f"{client}.pem", key=pki / f"{client}.key")
    clients = [Client(files, f"history/{prefix}", urls, number) for number in range(CLIENTS)]
    for client_thread in clients:
        client_thread.start()
    writer = Writer(files, prefix, urls)
    writer.run()
    for client_thread in clients:
        client_thread.over.set()
        client_thread.join()
    history = [op for client_thread in clients for op in client_thread.history]
    print(json.dumps({**writer.result(), "history": history}))
    for each in writer.clients:
        each.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4], sys.argv[4:])
