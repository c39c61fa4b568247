"""`bake export`: the files for other engines. The files on disk show every change of them.

`pytest --golden tests/unit/test_export.py` writes the files again. They contain no keys.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
import stat
import string
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from generator.artifact import Artifact
from generator.cli import export as cli_export
from generator.config.load import load
from generator.errors import InputError
from generator.export import cloud, kubevirt, opentofu_libvirt, opentofu_proxmox, proxmox, virt_install
from generator.export.opentofu import literal
from generator.export.source import LibvirtSettings, Source
from generator.plan import ClusterPlan, plan_cluster
from generator.seed.iso import read_user_data, without_drive
from tests.conftest import Result
from tests.unit.engine_fields import KUBERNETES, OPENTOFU, wrong

Bake = Callable[..., Result]
ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/export"
IMAGE, URL = "/images/debian-13.qcow2", "https://example.org/debian-13.qcow2"
PERMIT = b"0" * 64 + b"\n"
USER_DATA = b"#cloud-config\nbootcmd:\n- |\n  sync\n  true\nwrite_files:\n- path: /x\n  content: y\n"
META_DATA = b"instance-id: etcd1-0123456789abcdef\n"
TARGETS: dict[str, Callable[[Source], tuple[Artifact, ...]]] = {
    "virt-install": lambda source: virt_install.export(source, LibvirtSettings(image=IMAGE)),
    "proxmox": lambda source: proxmox.export(source, proxmox.Settings(image=IMAGE)),
    "opentofu-libvirt": lambda source: opentofu_libvirt.export(source, LibvirtSettings(image=IMAGE)),
    "opentofu-proxmox": lambda source: opentofu_proxmox.export(source, opentofu_proxmox.Settings(image=IMAGE)),
    "kubevirt": lambda source: kubevirt.export(source, kubevirt.Settings(image=URL, network="lan")),
    "cloud": lambda source: cloud.export(without_disk(source), cloud.Settings(engine="openstack")),
}


def plan_of(profile: str = "debian", **fields: tuple[tuple[str, ...], Any]) -> ClusterPlan:
    return plan_cluster(load(profile=profile, flags={f"--{name}": each for name, each in fields.items()}).spec)


def source_of(plan: ClusterPlan, folder: str = "/clusters/etcd", user_data: bytes = USER_DATA) -> Source:
    files = {"user-data": user_data, "meta-data": META_DATA, "network-config": b"version: 2\n"}
    first, *others = (node.name for node in plan.nodes)
    seeds = {first: files | {"bootstrap-permit": PERMIT}, **dict.fromkeys(others, files)}
    return Source(plan=plan, folder=Path(folder), seeds=seeds)


def without_disk(source: Source) -> Source:
    spec = source.plan.spec
    return replace(source, plan=replace(source.plan, spec=replace(spec, vm=replace(spec.vm, data_disk=0))))


def efi(source: Source) -> Source:
    spec = source.plan.spec
    return replace(source, plan=replace(source.plan, spec=replace(spec, vm=replace(spec.vm, firmware="efi"))))


def readable(file: Artifact) -> str:
    """Return the text of a file, with the seeds' files in place of their encoding."""
    data = file.data
    if file.path.suffix == ".gz":
        return gzip.decompress(data).decode()
    if file.path.name == "secrets.yaml":
        names = "user-data|meta-data|network-config|bootstrap-permit"
        return re.sub(rf"(?m)^(  (?:{names})): ([A-Za-z0-9+/]+=*)$", _decoded, data.decode())
    return re.sub(r'"bytes": \d+', '"bytes": 0', data.decode())


def _decoded(match: re.Match[str]) -> str:
    return f"{match[1]}: {base64.b64decode(match[2], validate=True)!r} (base64)"


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_exports_what_is_on_file(target: str, request: pytest.FixtureRequest) -> None:
    folder = GOLDEN / target
    made = {str(file.path): readable(file) for file in TARGETS[target](source_of(plan_of()))}
    if request.config.getoption("--golden"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in made.items():
            (folder / name).write_text(text)
    assert {path.name: path.read_text() for path in folder.iterdir()} == made


def test_no_target_that_is_gone_is_on_file() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(TARGETS)
    assert set(cli_export.export.commands) == set(TARGETS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", TARGETS)
def test_only_secret_files_contain_the_seed(target: str) -> None:
    for file in TARGETS[target](source_of(plan_of())):
        has_seed = PERMIT.strip() in file.data or base64.b64encode(PERMIT) in file.data or file.path.suffix == ".gz"
        assert file.secret == has_seed or file.path.suffix == ".gz", file.path
        assert file.mode == (0o600 if file.secret else 0o644)


# --- scripts ----------------------------------------------------------------------------------------------------

# Programs that record their arguments, and keep their state in files.
LOG = """#!{python} -IS
import json, os, sys
from pathlib import Path
state, name, words = Path({state!r}), Path(sys.argv[0]).name, sys.argv[1:]
with (state / "log").open("a") as log:
    log.write(json.dumps([name, *words]) + "\\n")
if name == "virsh":
    words = words[3:]
if words[0] in ("vol-info", "dominfo", "config"):
    found = state / (words[0][:3] + words[1])
    if not found.exists():
        sys.exit(1)
    print(found.read_text(), end="")
elif words[0] == "vol-create-as":
    (state / ("vol" + words[2])).touch()
elif words[0] == "vol-delete":
    (state / ("vol" + words[1])).unlink()
elif words[0] == "vol-upload":
    (state / ("vol" + words[1])).write_bytes(Path(words[2]).read_bytes())
elif name == "virt-install":
    if (state / "broken").exists():
        sys.exit(1)
    (state / ("dom" + words[words.index("--name") + 1])).touch()
elif words[0] == "create":
    (state / ("con" + words[1])).write_text("cores: 1\\nname: " + words[words.index("--name") + 1] + "\\nx: y\\n")
elif name == "pvesm":
    print(state / "isos" / words[1].partition("/")[2])
"""


class Host:
    """A host with stubs of virsh, virt-install, qm and pvesm."""

    def __init__(self, folder: Path) -> None:
        self.state, self.bin = folder / "state", folder / "bin"
        self.state.mkdir(parents=True)
        self.bin.mkdir()
        for name in ("virsh", "virt-install", "qm", "pvesm"):
            (self.bin / name).write_text(LOG.format(python=sys.executable, state=str(self.state)))
            (self.bin / name).chmod(0o755)

    def run(self, script: Artifact, *words: str, shell: str = "sh") -> subprocess.CompletedProcess[str]:
        (self.state / "script").write_bytes(script.data)
        env = {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        command = [shell, str(self.state / "script"), *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def calls(self, *begin: str) -> list[list[str]]:
        log = self.state / "log"
        found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [call for call in found if call[: len(begin)] == list(begin)]

    def volumes(self) -> set[str]:
        return {path.name[3:] for path in self.state.glob("vol*")}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


def cluster_folder(folder: Path) -> Source:
    """Return a source whose ISOs are real files, and an image next to them."""
    for node in ("etcd1", "etcd2", "etcd3"):
        (folder / node).mkdir(parents=True)
        (folder / node / "seed.iso").write_text(f"the ISO of {node}")
    (folder / "image").write_text("the image")
    return source_of(plan_of(), str(folder))


def virt_install_script(source: Source, **more: Any) -> Artifact:
    return virt_install.export(source, LibvirtSettings(image=str(source.folder / "image"), **more))[0]


def proxmox_script(source: Source, **more: Any) -> Artifact:
    return proxmox.export(source, proxmox.Settings(image=str(source.folder / "image"), **more))[0]


@pytest.mark.parametrize("make", [virt_install_script, proxmox_script])
@pytest.mark.parametrize("folder", ["/plain", "/a b/$(id)/`x`/it's \"q\""])
@pytest.mark.parametrize("change", [lambda source: source, without_disk, efi])
def test_a_script_passes_shellcheck(
    make: Callable[..., Artifact], folder: str, change: Any, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    packaged = Path(sys.executable).with_name("shellcheck")
    path = tmp_path / "script.sh"
    path.write_bytes(make(change(source_of(plan_of(), folder))).data)
    checker = str(packaged) if packaged.exists() else tool("shellcheck")
    done = subprocess.run([checker, "--norc", path], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    for shell in ("dash", "bash"):
        subprocess.run([tool(shell), "-n", path], check=True)


def test_virt_install_creates_each_vm_once(host: Host, tmp_path: Path) -> None:
    source = cluster_folder(tmp_path / "etcd")
    script = virt_install_script(source, pool="my pool")
    done = host.run(script)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    vms = host.calls("virt-install")
    node = source.plan.nodes[1]
    assert [call[call.index("--name") + 1] for call in vms] == ["etcd-etcd1", "etcd-etcd2", "etcd-etcd3"]
    assert vms[1] == [
        "virt-install", "--connect", "qemu:///system", "--name", "etcd-etcd2", "--uuid", str(node.uuid),
        "--memory", "1024", "--vcpus", "1", "--machine", "q35", "--import",
        "--disk", "vol=my pool/etcd-etcd2.qcow2,bus=virtio",
        "--disk", "vol=my pool/etcd-etcd2.data.qcow2,bus=virtio,serial=etcd-data",
        "--disk", "vol=my pool/etcd-etcd2.seed.iso,device=cdrom,bus=sata",
        "--network", f"network=default,model=virtio,mac={node.mac}", "--rng", "/dev/urandom",
        "--osinfo", "detect=on,require=off", "--graphics", "none", "--noautoconsole",
    ]  # fmt: skip
    assert (host.state / "voletcd-etcd2.seed.iso").read_text() == "the ISO of etcd2"
    before = host.volumes()
    again = host.run(script)
    assert (again.returncode, again.stderr.count("exists already")) == (0, 4), again.stderr
    assert (host.volumes(), len(host.calls("virt-install"))) == (before, 3)


def test_virt_install_overwrites_no_volume(host: Host, tmp_path: Path) -> None:
    (host.state / "voletcd-etcd2.data.qcow2").write_text("data")
    done = host.run(virt_install_script(cluster_folder(tmp_path / "etcd")))
    assert (done.returncode, "error: the volume etcd-etcd2.data.qcow2 exists" in done.stderr) == (1, True)
    assert (host.state / "voletcd-etcd2.data.qcow2").read_text() == "data"
    assert len(host.calls("virt-install")) == 1


def test_virt_install_deletes_the_volumes_of_a_vm_that_was_not_created(host: Host, tmp_path: Path) -> None:
    (host.state / "broken").touch()
    done = host.run(virt_install_script(cluster_folder(tmp_path / "etcd")))
    (image,) = host.volumes()
    assert (done.returncode, image.startswith("etcd.image-")) == (1, True)


def test_virt_install_takes_the_folder_of_a_moved_cluster(host: Host, tmp_path: Path) -> None:
    script = virt_install_script(cluster_folder(tmp_path / "etcd"))
    (tmp_path / "etcd/image").rename(tmp_path / "image")
    (tmp_path / "etcd").rename(tmp_path / "moved it")
    (tmp_path / "etcd").mkdir()
    (tmp_path / "image").rename(tmp_path / "etcd/image")
    assert host.run(script).returncode == 1
    assert host.run(script, str(tmp_path / "moved it")).returncode == 0


def test_qm_creates_each_vm_once(host: Host, tmp_path: Path) -> None:
    source = cluster_folder(tmp_path / "etcd")
    script = proxmox_script(source)
    done = host.run(script)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    node = source.plan.nodes[1]
    assert host.calls("qm", "create")[1] == [
        "qm", "create", "901", "--name", "etcd-etcd2", "--ostype", "l26", "--machine", "q35",
        "--cpu", "x86-64-v2-AES", "--cores", "1", "--memory", "1024", "--smbios1", f"uuid={node.uuid}",
        "--net0", f"virtio={node.mac.upper()},bridge=vmbr0",
        "--virtio0", f"local-lvm:0,import-from={tmp_path}/etcd/image,discard=on",
        "--virtio1", "local-lvm:8,serial=etcd-data", "--ide2", "local:iso/etcd-etcd2.iso,media=cdrom",
        "--boot", "order=virtio0", "--serial0", "socket", "--vga", "serial0", "--onboot", "1",
    ]  # fmt: skip
    assert [call[2] for call in host.calls("qm", "start")] == ["900", "901", "902"]
    iso = host.state / "isos/etcd-etcd2.iso"
    assert (iso.read_text(), stat.S_IMODE(iso.stat().st_mode)) == ("the ISO of etcd2", 0o600)
    again = host.run(script)
    assert (again.returncode, again.stderr.count("exists already")) == (0, 3), again.stderr
    assert len(host.calls("qm", "create")) == 3


@pytest.mark.parametrize("name", ["etcd-etcd", "etcd-etcd11", "x: etcd-etcd1", "other"])
def test_qm_changes_no_other_vm(host: Host, tmp_path: Path, name: str) -> None:
    (host.state / "con900").write_text(f"cores: 1\nname: {name}\n")
    done = host.run(proxmox_script(cluster_folder(tmp_path / "etcd")))
    assert (done.returncode, done.stderr) == (
        1, "error: another VM has the id 900; export again with another --first-id\n",
    )  # fmt: skip
    assert host.calls("qm", "create") == []


def test_qm_overwrites_no_iso(host: Host, tmp_path: Path) -> None:
    (host.state / "isos").mkdir()
    (host.state / "isos/etcd-etcd1.iso").write_text("another ISO")
    done = host.run(proxmox_script(cluster_folder(tmp_path / "etcd")))
    assert (done.returncode, "exists with another content" in done.stderr) == (1, True)
    assert (host.state / "isos/etcd-etcd1.iso").read_text() == "another ISO"


PATHS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.sampled_from(" $`'\"\\*?;&|{}~#"))
NAMES = PATHS.filter(lambda name: "/" not in name and name not in ("", ".", "..") and len(name.encode()) < 200)


# Programs that record their arguments, and find no volume and no VM. They are in sh, because Python starts slowly.
QUICK = """#!/bin/sh
case $4$1 in vol-info* | dominfo* | *config) exit 1 ;; esac
case $4$1 in vol-upload* | *create) printf '%s\\n' "$@" >>"$LOG" ;; esac
"""


@given(name=NAMES)
@settings(max_examples=8)
def test_every_path_reaches_the_programs_unchanged(name: str) -> None:
    with tempfile.TemporaryDirectory() as base:
        folder, bin_folder, log = Path(base) / name, Path(base) / "stubs of programs", Path(base) / "log of calls"
        source = cluster_folder(folder)
        bin_folder.mkdir()
        for program in ("virsh", "virt-install", "qm"):
            (bin_folder / program).write_text(QUICK)
            (bin_folder / program).chmod(0o755)
        (bin_folder / "pvesm").write_text(f"#!/bin/sh\necho '{base}/isos/'\"${{2##*/}}\"\n")
        (bin_folder / "pvesm").chmod(0o755)
        env = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "LOG": str(log)}
        scripts = [virt_install_script(source)]
        if "," not in name:  # `qm` has no way to write a comma in a path
            scripts.append(proxmox_script(source))
        for script in scripts:
            subprocess.run(["sh", "-c", script.data.decode()], env=env, check=True, capture_output=True)
        calls = log.read_text().splitlines()
        assert [line for line in calls if line in {source.iso(node) for node in source.plan.nodes}] == [
            source.iso(node) for node in source.plan.nodes
        ]
        assert str(folder / "image") in calls
        imports = [line for line in calls if line.startswith("local-lvm:0,")]
        assert imports == [f"local-lvm:0,import-from={folder}/image,discard=on"] * (3 if len(scripts) == 2 else 0)
        assert len(list((Path(base) / "isos").glob("*.iso"))) == (3 if len(scripts) == 2 else 0)


# --- configurations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["opentofu-libvirt", "opentofu-proxmox"])
@pytest.mark.parametrize("change", [lambda source: source, without_disk, efi])
def test_the_providers_document_every_field(target: str, change: Any) -> None:
    (file,) = TARGETS[target](change(source_of(plan_of())))
    document = json.loads(file.data)
    found = [
        problem
        for kind, resources in document["resource"].items()
        for name, values in resources.items()
        for problem in wrong(values, OPENTOFU[kind], f"{kind}.{name}")
    ]
    assert found == []
    assert set(document) == {"terraform", "provider", "resource"}


@pytest.mark.parametrize("target", ["opentofu-libvirt", "opentofu-proxmox"])
def test_every_reference_names_a_resource(target: str) -> None:
    (file,) = TARGETS[target](source_of(plan_of()))
    resources = json.loads(file.data)["resource"]
    known = {f"{kind}.{name}" for kind, each in resources.items() for name in each}
    text = file.data.decode()
    references = set(re.findall(r"\$\{(\w+\.\w+)\.\w+\}", text))
    references |= set(re.findall(r'"(\w+\.\w+)"', text.replace("main.tf.json", "")))
    assert references <= known
    assert references


def resolved(text: str) -> str:
    """Return the value of a template without expressions, as OpenTofu evaluates it."""
    assert not re.search(r"(?<!\$)\$\{|(?<!%)%\{", text.replace("$${", "").replace("%%{", ""))
    return text.replace("$${", "${").replace("%%{", "%{")


@given(text=st.text(alphabet=string.ascii_letters + "${}% \"\\'"))
def test_opentofu_reads_a_path_literally(text: str) -> None:
    assert resolved(literal(text)) == text


def documents(target: str = "kubevirt", change: Any = lambda source: source, **fields: Any) -> Iterator[dict[str, Any]]:
    for file in TARGETS[target](change(source_of(plan_of(**fields)))):
        yield from yaml.safe_load_all(file.data)


@pytest.mark.parametrize("change", [lambda source: source, without_disk, efi])
def test_kubernetes_knows_every_field(change: Any) -> None:
    kinds = []
    for document in documents(change=change):
        kind = (document["apiVersion"], document["kind"])
        assert list(wrong(document, KUBERNETES[kind], document["kind"])) == []
        kinds.append(document["kind"])
    assert sorted(set(kinds)) == sorted(kind for _, kind in KUBERNETES)


@given(path=PATHS)
@settings(max_examples=25)
def test_a_url_stays_unchanged_in_yaml(path: str) -> None:
    url = f"https://example.org/{path}"
    *_, file = kubevirt.export(source_of(plan_of()), kubevirt.Settings(image=url, network="lan"))
    vm = next(one for one in yaml.safe_load_all(file.data) if one["kind"] == "VirtualMachine")
    assert vm["spec"]["dataVolumeTemplates"][0]["spec"]["source"] == {"http": {"url": url}}


def test_a_wrong_field_is_found() -> None:
    vm = next(one for one in documents() if one["kind"] == "VirtualMachine")
    vm["spec"]["template"]["spec"]["volumes"][2]["secret"]["volumelabel"] = "x"
    del vm["spec"]["template"]["spec"]["domain"]["devices"]
    vm["spec"]["runStrategy"] = True
    found = list(wrong(vm, KUBERNETES["kubevirt.io/v1", "VirtualMachine"]))
    assert found == [
        ".spec.runStrategy: not str",
        ".spec.template.spec.domain.devices: missing",
        ".spec.template.spec.volumes[2].secret.volumelabel: unknown",
    ]


def test_a_secret_has_the_files_of_the_seed() -> None:
    source = source_of(plan_of())
    secrets = [one for one in documents() if one["kind"] == "Secret"]
    for node, secret in zip(source.plan.nodes, secrets, strict=True):
        decoded = {name: base64.b64decode(text) for name, text in secret["data"].items()}
        assert decoded == source.seeds[node.name]
    assert [("bootstrap-permit" in secret["data"]) for secret in secrets] == [True, False, False]


@pytest.mark.parametrize(("nodes", "unavailable"), [(1, 0), (2, 0), (3, 1), (5, 1)])
def test_an_eviction_never_costs_the_quorum(nodes: int, unavailable: int) -> None:
    (budget,) = (one for one in documents(nodes=(("nodes",), nodes)) if one["kind"] == "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == unavailable


# --- user-data ---------------------------------------------------------------------------------------------------


def test_the_permit_is_only_in_the_user_data_of_the_first_node() -> None:
    files = {str(file.path): file.data for file in TARGETS["cloud"](source_of(plan_of()))}
    assert gzip.decompress(files["etcd1.user-data.gz"]) == without_drive(USER_DATA, META_DATA, PERMIT)
    assert gzip.decompress(files["etcd2.user-data.gz"]) == without_drive(USER_DATA, META_DATA, None)
    index = json.loads(files["nodes.json"])
    assert [node["bootstrap_permit"] for node in index["nodes"]] == [True, False, False]
    assert [node["bytes"] for node in index["nodes"]] == [len(files[node["user_data"]]) for node in index["nodes"]]


@pytest.mark.parametrize("order", ["bootcmd write_files runcmd", "write_files bootcmd runcmd"])
def test_only_bootcmd_changes_wherever_it_is(order: str) -> None:
    """Older versions of bake put bootcmd before write_files."""
    parts = {
        "bootcmd": "bootcmd:\n- |\n  sync\n\n  true\n", "runcmd": "runcmd:\n- set -e\n",
        "write_files": "write_files:\n- path: /x\n  content: y\n",
    }  # fmt: skip
    text = "#cloud-config\nhostname: a\n" + "".join(parts[name] for name in order.split())
    (command,) = yaml.safe_load(without_drive(text.encode(), META_DATA, PERMIT))["bootcmd"]
    first, *middle, last = command.splitlines()
    assert (first, middle) == ("INSTANCE_ID=etcd1-0123456789abcdef", ["sync", "", "true"])
    assert last.startswith("(umask 077 && echo ")


def test_bootcmd_writes_the_permit_like_that_of_an_iso(tmp_path: Path) -> None:
    commands = yaml.safe_load(without_drive(USER_DATA, META_DATA, PERMIT))["bootcmd"]
    (command,) = commands
    assert command.startswith("INSTANCE_ID=etcd1-0123456789abcdef\nsync\n")
    subprocess.run(["sh", "-c", command.replace("/run/bake", str(tmp_path))], check=True)
    made = tmp_path / "bootstrap-permit"
    assert (made.read_bytes(), stat.S_IMODE(made.stat().st_mode)) == (PERMIT, 0o600)


@pytest.mark.parametrize(
    ("engine", "size"), [("openstack", 49_149), ("gce", 262_144), ("ec2", 16_384), ("other", 9_999)]
)
def test_too_large_user_data_is_refused(engine: str, size: int) -> None:
    large = USER_DATA + b"# " + base64.b64encode(os.urandom(300_000)) + b"\n"
    source = without_disk(source_of(plan_of(), user_data=large))
    limit = 9_999 if engine == "other" else None
    with pytest.raises(InputError) as caught:
        cloud.export(source, cloud.Settings(engine=engine, limit=limit))
    assert [problem.where for problem in caught.value.problems] == [f"etcd{number}/user-data" for number in (1, 2, 3)]
    assert all(f"accepts {size} (" in problem.message for problem in caught.value.problems)


def test_text_for_an_engine_that_accepts_only_text() -> None:
    source = without_disk(source_of(plan_of()))
    first, *_ = cloud.export(source, cloud.Settings(engine="gce"))
    assert str(first.path) == "etcd1.user-data.gz.b64"
    assert gzip.decompress(base64.b64decode(first.data, validate=True)) == without_drive(USER_DATA, META_DATA, PERMIT)


# --- problems ----------------------------------------------------------------------------------------------------


def refused(call: Callable[[], object]) -> list[str]:
    with pytest.raises(InputError) as caught:
        call()
    assert all(problem.hint for problem in caught.value.problems)
    return [problem.where for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("target", "values", "where"),
    [
        (virt_install, {"pool": "a/b", "network": "a,b", "bridge": "x" * 16},
         "--image --pool --network --bridge --bridge"),
        (virt_install, {"image": "a\nb", "connect": ""}, "--image --connect"),
        (virt_install, {"image": "x", "pool": 'a"b', "network": " x"}, "--pool --network"),
        (opentofu_libvirt, {"pool": "", "network": "a\\b"}, "--image --pool --network"),
        (proxmox, {"storage": "1", "iso_storage": "a:b", "bridge": "a b", "first_id": 99},
         "--image --storage --iso-storage --bridge --first-id"),
        (proxmox, {"image": "relative"}, "--image"),
        (proxmox, {"image": "/a,b", "first_id": 999_999_998}, "--image --first-id"),
        (opentofu_proxmox, {"image": "x", "pve_node": "a b", "storage": "-"}, "--pve-node --storage"),
        (kubevirt, {"image": "/x", "namespace": "A", "storage_class": "a b"},
         "--image --network --namespace --storage-class"),
        (kubevirt, {"image": URL, "network": "a/b/c"}, "--network"),
        (cloud, {"engine": "other"}, "--limit vm.dataDisk"),
        (cloud, {"engine": "openstack", "limit": 0}, "--limit vm.dataDisk"),
    ],
)  # fmt: skip
def test_every_wrong_option_is_reported_at_once(target: Any, values: dict[str, Any], where: str) -> None:
    settings = getattr(target, "Settings", LibvirtSettings)
    assert refused(lambda: target.export(source_of(plan_of()), settings(**values))) == where.split()


BRIDGED = {"mode": (("network", "mode"), "bridge"), "bridge": (("network", "bridge"), "br7")}
NAMED = {"mode": (("network", "mode"), "network"), "lan": (("network", "name"), "lan")}


@pytest.mark.parametrize(
    ("fields", "given", "attachment"),
    [
        ({}, {}, ("network", "default")),
        (BRIDGED, {}, ("bridge", "br7")),
        (NAMED, {}, ("network", "lan")),
        (BRIDGED, {"network": "dmz"}, ("network", "dmz")),
        (NAMED, {"bridge": "br1"}, ("bridge", "br1")),
    ],
)
def test_the_network_is_the_clusters_unless_another_is_given(
    fields: dict[str, Any], given: dict[str, str], attachment: tuple[str, str]
) -> None:
    source, settings = source_of(plan_of(**fields)), LibvirtSettings(image=IMAGE, **given)
    (script,) = virt_install.export(source, settings)
    assert f"\nnetwork={'='.join(attachment)}\n" in script.data.decode()
    (file,) = opentofu_libvirt.export(source, settings)
    kind, name = attachment
    domains = json.loads(file.data)["resource"]["libvirt_domain"].values()
    assert [one["devices"]["interfaces"][0]["source"] for one in domains] == [{kind: {kind: name}}] * 3


def test_a_vlan_that_the_export_cannot_set_is_refused() -> None:
    source = source_of(plan_of(**BRIDGED, vlan=(("network", "vlan"), 20)))
    assert refused(lambda: virt_install.export(source, LibvirtSettings(image=IMAGE))) == ["network.vlan"]
    virt_install.export(source, LibvirtSettings(image=IMAGE, bridge="br7.20"))


def test_files_that_only_an_iso_can_carry_are_refused() -> None:
    archive = plan_of(
        "rhel", archive=(("install", "archive"), "etcd.tar.gz"), sha=(("install", "sha256"), "0" * 64)
    )
    source = without_disk(source_of(archive))
    seeds = {**source.seeds, "etcd1": {**source.seeds["etcd1"], "snapshot.db": b"x"}}
    source = replace(source, seeds=seeds)
    expected = ["install.method", "etcd1/snapshot.db"]
    assert refused(lambda: kubevirt.export(source, kubevirt.Settings(image=URL, network="lan"))) == expected
    assert refused(lambda: cloud.export(source, cloud.Settings(engine="openstack"))) == expected


def test_a_seed_that_is_too_large_for_a_secret_is_refused() -> None:
    source = source_of(plan_of(), user_data=b"x" * (1 << 20))
    where = refused(lambda: kubevirt.export(source, kubevirt.Settings(image=URL, network="lan")))
    assert where == ["etcd1", "etcd2", "etcd3"]


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def baked(bake: Bake) -> Bake:
    assert bake("--nodes", 2, "--profile", "debian", "--data-disk", 0, "-q").code == 0
    return bake


def test_the_real_seed_fits_and_boots_like_that_of_an_iso(baked: Bake) -> None:
    result = baked("export", "cloud", "--engine", "openstack", "-o", "json")
    assert result.code == 0, result.err
    shown = json.loads(result.out)
    assert (shown["cluster"], shown["target"], shown["bootstrap_permit"]) == ("etcd", "cloud", "etcd1")
    assert shown["changed"] == ["etcd1.user-data.gz", "etcd2.user-data.gz", "nodes.json"]
    folder = Path("out/etcd.export/cloud")
    assert str(folder.absolute()) == shown["folder"]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "etcd1.user-data.gz": 0o600, "etcd2.user-data.gz": 0o600, "nodes.json": 0o644, "manifest.json": 0o644,
    }  # fmt: skip
    sent, kept = gzip.decompress((folder / "etcd1.user-data.gz").read_bytes()), Path("out/etcd/etcd1/user-data")
    permit = Path("out/etcd/etcd1/bootstrap-permit").read_text().strip()
    seed = yaml.safe_load(Path("out/etcd/etcd1/meta-data").read_bytes())["instance-id"]
    text = sent.decode()
    for line in (f"  INSTANCE_ID={seed}\n", f"  (umask 077 && echo {permit} >/run/bake/bootstrap-permit)\n"):
        assert text.count(line) == 1
        text = text.replace(line, "")
    assert text == kept.read_text()
    assert read_user_data(sent, where="").files == read_user_data(kept.read_bytes(), where="").files


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["virt-install", "--image", "a b.qcow2"], ["create-vms.sh"]),
        (["proxmox", "--image", IMAGE], ["create-vms.sh"]),
        (["opentofu-libvirt", "--image", IMAGE], ["main.tf.json"]),
        (["opentofu-proxmox", "--image", URL], ["main.tf.json"]),
        (["kubevirt", "--image", URL, "--network", "lan"], ["secrets.yaml", "cluster.yaml"]),
    ],
)
def test_the_command_writes_each_target(baked: Bake, words: list[str], names: list[str]) -> None:
    result = baked("export", *words)
    assert result.code == 0, result.err
    assert all(str(Path(f"out/etcd.export/{words[0]}/{name}").absolute()) in result.out for name in names)
    assert "contains the bootstrap permit" in result.err
    unchanged = json.loads(baked("export", *words, "-o", "json").out)
    assert (unchanged["changed"], [file["path"] for file in unchanged["files"]]) == ([], names)


def test_an_export_of_a_sealed_cluster_has_no_permit(baked: Bake) -> None:
    baked("export", "cloud", "--engine", "gce", "--into", "x")
    assert baked("seal", "--yes").code == 0
    result = baked("export", "cloud", "--engine", "gce", "--into", "x", "-o", "json")
    shown = json.loads(result.out)
    assert (shown["bootstrap_permit"], shown["changed"]) == (None, ["etcd1.user-data.gz.b64", "nodes.json"])
    plain = gzip.decompress(base64.b64decode(Path("x/etcd1.user-data.gz.b64").read_bytes()))
    files = [Path("out/etcd/etcd1", name).read_bytes() for name in ("user-data", "meta-data")]
    assert plain == without_drive(*files, None)


def exported(bake: Bake, *words: str) -> tuple[int, str]:
    result = bake("export", "virt-install", "--image", IMAGE, *words)
    return result.code, result.err


def test_an_export_overwrites_only_what_bake_wrote(baked: Bake) -> None:
    Path("mine").mkdir()
    Path("mine/terraform.tfstate").write_text("state")
    code, text = exported(baked, "--into", "mine")
    assert (code, "is not empty, and bake did not create it" in text) == (2, True)
    assert exported(baked, "--into", "x y/z")[0] == 0
    script, own = Path("x y/z/create-vms.sh"), Path("x y/z/terraform.tfstate")
    own.write_text("state")
    assert exported(baked, "--into", "x y/z", "--pool", "other")[0] == 0
    assert (own.read_text(), "pool=other" in script.read_text()) == ("state", True)
    script.write_text("mine")
    code, text = exported(baked, "--into", "x y/z")
    assert (code, f"{script.absolute()}: was changed after bake wrote it" in text) == (2, True)
    assert script.read_text() == "mine"


def test_a_folder_has_only_one_export(baked: Bake) -> None:
    assert exported(baked, "--into", "x")[0] == 0
    result = baked("export", "proxmox", "--image", IMAGE, "--into", "x")
    assert (result.code, "contains the export virt-install of the cluster etcd" in result.err) == (2, True)


@pytest.mark.parametrize("into", ["out/etcd", "out/etcd/export", "out/x/../etcd/etcd1"])
def test_the_clusters_folder_is_refused(baked: Bake, into: str) -> None:
    code, text = exported(baked, "--into", into)
    assert (code, "which each bake replaces" in text) == (2, True), text


def test_another_users_folder_is_refused(baked: Bake) -> None:
    Path("shared").mkdir()
    Path("shared").chmod(0o777)
    code, text = exported(baked, "--into", "shared/x")
    assert (code, "--into" in text, "--out" in text) == (2, True, False), text


def test_a_changed_or_missing_seed_is_refused(baked: Bake) -> None:
    Path("out/etcd/etcd1/seed.iso").write_text("x")
    Path("out/etcd/etcd2/user-data").unlink()
    code, text = exported(baked)
    assert code == 2
    assert "etcd1/seed.iso: was changed after bake wrote it" in text
    assert "etcd2/user-data: is missing" in text


def test_an_image_without_etcd_is_a_warning(bake: Bake) -> None:
    bake("--nodes", 1, "-q")
    code, text = exported(bake)
    assert (code, "the image must contain etcd" in text) == (0, True)


@pytest.mark.parametrize("target", ["virt-install", "opentofu-libvirt", "opentofu-proxmox"])
def test_a_missing_image_of_this_machine_is_a_warning(baked: Bake, target: str) -> None:
    warning = f"--image: there is no file {Path('d.qcow2').absolute()} on this machine"
    words = ("export", target, "--image", "d.qcow2")
    assert f"warning: {warning}" in baked(*words).err
    assert warning in json.loads(baked(*words, "-o", "json").out)["warnings"]
    Path("d.qcow2").touch()
    assert "d.qcow2 on this machine" not in baked(*words).err
    assert "on this machine" not in baked("export", target, "--image", URL).err


def test_an_image_of_another_machine_is_not_checked(baked: Bake) -> None:
    assert "on this machine" not in baked("export", "proxmox", "--image", "/root/d.qcow2").err


def test_the_next_step_for_proxmox_is_on_its_host(baked: Bake) -> None:
    result = baked("export", "proxmox", "--image", "/root/d.qcow2", "--into", "a b")
    script, folder = Path("a b/create-vms.sh").absolute(), Path("out/etcd").absolute()
    assert (
        f"Copy '{script}', {folder} and the image to the host of Proxmox VE. "
        f'To create the VMs, run there as root: sh create-vms.sh "$PWD/etcd"'
    ) in result.err


def test_a_missing_image_is_a_warning_of_bake_and_check(bake: Bake) -> None:
    warning = f"vm.image: there is no file {Path('d.qcow2').absolute()} on this machine"
    for words in (("check",), ()):
        assert f"warning: {warning}" in bake(*words, "--nodes", 1, "--image", "d.qcow2").err
    Path("d.qcow2").touch()
    assert "on this machine" not in bake().err


def test_no_image_is_an_error_that_names_the_option(baked: Bake) -> None:
    result = baked("export", "virt-install")
    assert (result.code, result.err.startswith("error: --image: no image is given")) == (2, True)
    assert not Path("out/etcd.export").exists()
