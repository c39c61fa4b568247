"""`EngineOnHosts`: the machines of a cluster whose nodes run on several hosts, each with an engine of its own.

A host that does not answer is named, and the other hosts go on. A node's machine can be on another host than the plan
says: on its old host, until the node is replaced; or a copy on a host that was down while the node was replaced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from generator.engine.protocol import Console, Engine, Hosts, MachineStatus, Owned, State
from generator.errors import BakeError
from generator.progress import Report

HOST = "nodes[].host"  # the field that a machine on another host differs in
Answer = TypeVar("Answer")
Part = TypeVar("Part")


class _Silence:
    """The log of a machine on a host that does not answer."""

    def read(self) -> bytes:
        return b""


def _ask_all(
    connected: Mapping[str, Part | BakeError], ask: Callable[[str, Part], Answer]
) -> dict[str, Answer | BakeError]:
    """Call `ask` for each host at the same time. Return each host's answer or error."""

    def one(host: str) -> Answer | BakeError:
        part = connected[host]
        if isinstance(part, BakeError):
            return part
        try:
            return ask(host, part)
        except BakeError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(len(connected), 1)) as pool:
        return dict(zip(connected, pool.map(one, connected), strict=True))


def _connect_all(hosts: Sequence[str], connect: Callable[[str], Part]) -> dict[str, Part | BakeError]:
    return _ask_all(dict.fromkeys(hosts, None), lambda host, _: connect(host))


def connect_all(hosts: Mapping[str, Callable[[], object]]) -> None:
    """Connect to all hosts at the same time. Raise one BakeError that names every host that does not answer."""
    _raise_any(_connect_all(tuple(hosts), lambda host: hosts[host]()))


def _raise_any(answers: Mapping[str, object]) -> None:
    """Raise one error for all hosts that have failed."""
    failed = {host: error for host, error in answers.items() if isinstance(error, BakeError)}
    if failed:
        text = "; ".join(f"host {host}: {error.message}" for host, error in failed.items())
        raise BakeError(text, hint=next(iter(failed.values())).hint)


@dataclass(kw_only=True)
class EngineOnHosts:
    """Implements `Engine` with one engine per host.

    `placement`: the host of each planned node, in the plan's order. `hosts`: the names of all hosts. `connect`: returns
    the engine of a host, which knows the whole plan; raises BakeError if the host does not answer.
    """

    placement: Mapping[str, str]
    hosts: Sequence[str]
    connect: Callable[[str], Engine]
    report: Report
    _engines: dict[str, Engine | BakeError] = field(default_factory=dict, init=False)
    _named: set[str] = field(default_factory=set, init=False)  # the hosts whose failure has been reported

    # --- the state of the machines ----------------------------------------------------------------------------

    def machines(self) -> dict[str, MachineStatus]:
        seen = self._ask(lambda _, engine: engine.machines())
        found: dict[str, MachineStatus] = {}
        silent = tuple(host for host in self.hosts if host not in seen)
        for name, home in self.placement.items():
            found[name] = replace(self._machine(name, home, seen), silent_hosts=silent)
        for host, machines in seen.items():
            for name, one in machines.items():
                if not one.planned and name not in found:
                    found[name] = replace(one, host=host)
        return found

    def _machine(self, name: str, home: str, seen: Mapping[str, Mapping[str, MachineStatus]]) -> MachineStatus:
        """Return the facts about a planned node's machine, on whichever host it is."""
        elsewhere = {host: machines[name] for host, machines in seen.items() if host != home and name in machines}
        others = {
            host: one for host, one in elsewhere.items() if one.is_left and one.state is not State.FOREIGN
        }
        planned = seen[home].get(name) if home in seen else None
        if planned is not None and (planned.is_left or not others):
            return replace(planned, host=home, copies=tuple(others))
        if not others:
            return MachineStatus(node=name, state=State.UNKNOWN, host=home)
        host, one = next(iter(others.items()))
        if planned is None:
            return replace(one, host=host)
        return replace(one, host=host, rebuild=(HOST, *one.rebuild), data_size=0, lost_data=False)

    def console_logs(self, *names: str) -> dict[str, Console]:
        return self._logs(names, lambda engine, group: engine.console_logs(*group))

    def journals(self, *names: str) -> dict[str, Console]:
        return self._logs(names, lambda engine, group: engine.journals(*group))

    def _logs(
        self, names: Sequence[str], ask: Callable[[Engine, Sequence[str]], Mapping[str, Console]]
    ) -> dict[str, Console]:
        found: dict[str, Console] = {}
        for host, group in self._grouped(names or tuple(self.machines())).items():
            engine = self._engine(host)
            found |= dict.fromkeys(group, _Silence()) if engine is None else ask(engine, group)
        return found

    # --- several nodes ----------------------------------------------------------------------------------------

    def check(self, *names: str) -> None:
        self._on_each(self._grouped(names), lambda engine, group: engine.check(*group))

    def create(self, *names: str) -> tuple[str, ...]:
        """Check all hosts before any host changes."""
        groups = self._grouped(names)
        self._on_each(groups, lambda engine, group: engine.check(*group))
        return self._ordered(self._on_each(groups, lambda engine, group: engine.create(*group)))

    def shut_down(self, *names: str) -> tuple[str, ...]:
        return self._ordered(self._on_each(self._grouped(names), lambda engine, group: engine.shut_down(*group)))

    def _on_each(
        self, groups: Mapping[str, Sequence[str]], act: Callable[[Engine, Sequence[str]], Answer]
    ) -> list[Answer]:
        """Let each host act on its nodes at the same time. Raise one BakeError for all hosts that fail."""
        answers = _ask_all(self._only(groups), lambda host, engine: act(engine, groups[host]))
        _raise_any(answers)
        return [answer for answer in answers.values() if not isinstance(answer, BakeError)]

    def _ordered(self, groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
        done = {name for group in groups for name in group}
        return tuple(name for name in self.placement if name in done)

    # --- one node ---------------------------------------------------------------------------------------------

    def restart(self, name: str) -> None:
        self._of(name).restart(name)

    def reimage(self, name: str) -> None:
        self._of(name).reimage(name)

    def insert_seed(self, name: str, *, again: bool = False) -> bool:
        return self._of(name).insert_seed(name, again=again)

    def replace_seed(self, name: str) -> bool | None:
        return self._of(name).replace_seed(name)

    def remove_seed(self, name: str) -> bool:
        return self._of(name).remove_seed(name)

    def attach(self, name: str) -> None:
        self._of(name).attach(name)

    def remove(self, name: str) -> tuple[str, ...]:
        """Remove a node from every host that answers."""
        return self._remove_from(self.hosts, name)

    def replace(self, name: str) -> None:
        """Create the node on its planned host. First remove it from the other hosts that answer."""
        home = self._required(self.placement[name])
        self.remove_copies(name)
        home.replace(name)

    def remove_copies(self, name: str) -> tuple[str, ...]:
        return self._remove_from([host for host in self.hosts if host != self.placement.get(name)], name)

    def _remove_from(self, hosts: Iterable[str], name: str) -> tuple[str, ...]:
        answers = _ask_all(self._only(hosts), lambda _, engine: engine.remove(name))
        removed = [f"{what} on {host}" for host, some in answers.items() if isinstance(some, tuple) for what in some]
        for host, error in answers.items():
            if isinstance(error, BakeError):
                self.report(f"warning: host {host}: {error.message}; a VM of {name} can be left there")
        return tuple(removed)

    def remove_unused_images(self) -> tuple[str, ...]:
        answers = self._ask(lambda _, engine: engine.remove_unused_images())
        return tuple(f"{name} on {host}" for host, names in answers.items() for name in names)

    # --- hosts ------------------------------------------------------------------------------------------------

    def _connected(self) -> dict[str, Engine | BakeError]:
        """Connect to each host once. A host that did not answer is asked again."""
        missing = [host for host in self.hosts if not self._is_connected(host)]
        self._engines |= _connect_all(missing, self.connect)
        return self._engines

    def _is_connected(self, host: str) -> bool:
        return host in self._engines and not isinstance(self._engines[host], BakeError)

    def _only(self, hosts: Iterable[str]) -> dict[str, Engine | BakeError]:
        return {host: self._connected()[host] for host in hosts}

    def _ask(self, ask: Callable[[str, Engine], Answer]) -> dict[str, Answer]:
        """Return the answers of the hosts that answer. Report a host that does not answer, once."""
        answers, found = _ask_all(dict(self._connected()), ask), {}
        for host, answer in answers.items():
            if isinstance(answer, BakeError):
                self._engines.pop(host, None)  # the next call connects again
                if host not in self._named:
                    self._named.add(host)
                    self.report(f"warning: host {host} does not answer: {answer.message}")
            else:
                found[host] = answer
                self._named.discard(host)
        if not found:
            _raise_any(answers)
        return found

    def _engine(self, host: str) -> Engine | None:
        engine = self._connected()[host]
        return None if isinstance(engine, BakeError) else engine

    def _required(self, host: str) -> Engine:
        engine = self._connected()[host]
        if isinstance(engine, BakeError):
            raise BakeError(f"host {host} does not answer: {engine.message}", hint=engine.hint)
        return engine

    def _of(self, name: str) -> Engine:
        """Return the engine of the host that has the node's machine. Raise BakeError if the host does not answer."""
        (host,) = self._grouped([name])
        return self._required(host)

    def _grouped(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the nodes of each host: the host that has the machine, else the planned host."""
        seen, groups = self.machines(), defaultdict(list)
        for name in names:
            host = seen[name].host if name in seen else self.placement.get(name, self.hosts[0])
            groups[host].append(name)
        return dict(groups)


@dataclass(kw_only=True)
class OnHosts:
    """Implements `Hosts` with one `Hosts` per host.

    A host that does not answer is an error after the other hosts are done.
    """

    hosts: Sequence[str]
    connect: Callable[[str], Hosts]
    report: Report

    def owned(self, cluster: str, *, cluster_id: str = "") -> tuple[Owned, ...]:
        """Report the hosts that do not answer. Raise BakeError for them if the other hosts have nothing."""
        answers = self._ask(lambda _, one: one.owned(cluster, cluster_id=cluster_id))
        found = [
            replace(owned, name=f"{owned.name} on {host}")
            for host, some in answers.items() if not isinstance(some, BakeError) for owned in some
        ]  # fmt: skip
        if not found:
            _raise_any(answers)
        for host, error in answers.items():
            if isinstance(error, BakeError):
                self.report(f"warning: host {host} does not answer: {error.message}")
        return tuple(found)

    def destroy(self, cluster: str, *, cluster_id: str = "") -> tuple[str, ...]:
        answers = self._ask(lambda _, one: one.destroy(cluster, cluster_id=cluster_id))
        _raise_any(answers)
        return tuple(dict.fromkeys(name for some in answers.values() if isinstance(some, tuple) for name in some))

    def used_images(self) -> set[str]:
        answers = self._ask(lambda _, one: one.used_images())
        _raise_any(answers)
        return {image for some in answers.values() if isinstance(some, set) for image in some}

    def _ask(self, ask: Callable[[str, Hosts], Answer]) -> dict[str, Answer | BakeError]:
        return _ask_all(_connect_all(self.hosts, self.connect), ask)
