"""Try the actions that the sandbox of bake's units forbids, and print which of them succeeded. Runs inside a node.

No action here causes damage. The tests also run this script as root outside of the sandbox, where each action succeeds.
"""

# ruff: noqa: PTH101, PTH108, PTH116, PTH123, PTH208, S103, S108

import ctypes
import mmap
import os
import socket
import subprocess
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000


def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def system_call(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), str(number))


def write(path):
    with open(path, "a"):
        pass


def read(path):
    with open(path, "rb") as file:
        file.read(1)


def in_a_child(deed):
    """Run an action in a child process, because its effect on the process cannot be undone."""
    child = os.fork()
    if child == 0:
        try:
            deed()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise PermissionError("the child could not")


def suid_file():
    path = f"/var/lib/etcd/probe-{os.getpid()}"
    write(path)
    try:
        os.chmod(path, 0o4755)
    finally:
        os.unlink(path)


def trace():
    """Trace a process of the same user, so that not the user but only the sandbox forbids the action."""
    other = subprocess.Popen(["sleep", "9"])
    try:
        call("ptrace", 16, other.pid, 0, 0)  # PTRACE_ATTACH
    finally:
        other.kill()


def load_module():
    """Load invalid data as a module. Only the error "not permitted" counts as forbidden; other errors are success."""
    try:
        system_call(175, b"no module", 9, b"")  # init_module
    except OSError as error:
        if error.errno == 1:
            raise


def become(user):
    in_a_child(lambda: (os.setgroups([]), os.setgid(user), os.setuid(user)))


DEEDS = {
    "write below /etc": lambda: write("/etc/etcd/probe"),
    "write below /usr": lambda: write("/usr/local/probe"),
    "write below /var": lambda: write("/var/lib/bake/probe"),
    "change its keys": lambda: write("/etc/etcd/pki/etcd-server.key"),
    "look into /root": lambda: os.listdir("/root"),
    "read another user's file": lambda: read("/home/alice/note"),
    "read /etc/shadow": lambda: read("/etc/shadow"),
    "see another user's processes": lambda: os.stat("/proc/1"),
    "open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close(),
    "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
    "load a module": load_module,
    "mount": lambda: in_a_child(lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None)),
    "become root": lambda: become(0),
    "become somebody else": lambda: become(1),
    "make a suid file": suid_file,
    "trace a process": lambda: in_a_child(trace),
    "set a kernel tunable": lambda: write("/proc/sys/vm/swappiness"),
    "set the host's name": lambda: call("sethostname", os.uname().nodename.encode(), len(os.uname().nodename)),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "run in real time": lambda: in_a_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
    "make a user namespace": lambda: in_a_child(lambda: call("unshare", CLONE_NEWUSER)),
    "make a mount namespace": lambda: in_a_child(lambda: call("unshare", CLONE_NEWNS)),
    "make a network namespace": lambda: in_a_child(lambda: call("unshare", CLONE_NEWNET)),
    "write memory that it runs": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC).close(),
    "read the kernel's log": lambda: call("klogctl", 3, ctypes.create_string_buffer(64), 64),
    "make a device": lambda: (os.mknod("/tmp/probe", 0o20600, os.makedev(1, 3)), os.unlink("/tmp/probe")),
    "change the root": lambda: in_a_child(lambda: os.chroot("/tmp")),
    "write to a control group": lambda: write("/sys/fs/cgroup/cgroup.procs"),
    "open a port below 1024": lambda: socket.create_server(("127.0.0.1", 99)).close(),
}


def main():
    for name, deed in DEEDS.items():
        try:
            deed()
        except (OSError, ValueError) as error:
            print(f"refused\t{name}\t{error}")
        else:
            print(f"done\t{name}\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
