"""What is left in etcd of a removed node whose name an application has now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from generator.config.spec import read_spec
from generator.operations.running import leaving
from generator.plan import plan_cluster

AUTH = {"enabled": True, "roles": [{"name": "app", "permissions": [{"access": "readwrite", "prefix": "/app/"}]}]}


class FakeEtcd:
    """An etcd that has the record and the user of a removed node. `changes`: the calls that change something."""

    def __init__(self, members: list[str]) -> None:
        self.names, self.changes = members, list[str]()

    def members(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.names]

    def get(self, key: bytes, **_: object) -> Any:
        return SimpleNamespace(items=[SimpleNamespace(key=key + b"etcd4")] if key == leaving.RECORDS else [])

    def auth_enabled(self) -> bool:
        return True

    def users(self) -> set[str]:
        return {"root", "etcd-client", "etcd4", *self.names}

    def delete_user(self, name: str) -> None:
        self.changes.append(f"delete the user {name}")

    def delete(self, key: bytes) -> None:
        self.changes.append(f"delete {key.decode()}")


@pytest.mark.parametrize("is_application", [False, True])
def test_an_application_with_the_name_of_a_removed_node_keeps_its_user(
    monkeypatch: pytest.MonkeyPatch, is_application: bool
) -> None:
    users = [{"name": "etcd4", "roles": ["app"]}] if is_application else []
    plan = plan_cluster(read_spec({"nodes": 3, "auth": {**AUTH, "users": users}})[0])
    etcd = FakeEtcd([node.name for node in plan.nodes])
    monkeypatch.setattr(leaving, "_through_any", lambda _, call: call(etcd))
    leaving.forget_removed(SimpleNamespace(plan=plan), print)  # type: ignore[arg-type]
    deleted = [] if is_application else ["delete the user etcd4"]
    assert etcd.changes == [*deleted, "delete bake/audit/etcd4"]
