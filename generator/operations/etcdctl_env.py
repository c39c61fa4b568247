"""Generate etcdctl.env, a shell script that sets etcdctl's environment variables for one cluster."""

from __future__ import annotations

import shlex

from generator.pki import Role
from generator.plan import ClusterPlan

# bash stores the sourced file's name in BASH_SOURCE. If BASH_SOURCE is empty, the script searches the open files of the
# shell for etcdctl.env: a shell reads a sourced file through a descriptor of 10 or higher. In a subshell, $$ is the
# process id of the parent shell. /proc/self/stat starts with the process id of the subshell itself.
_FIND_FOLDER = """\
# etcdctl's settings for this cluster. Source this file in sh or bash. You can move the folder that contains this file.
bake_file=${BASH_SOURCE-}
if [ -z "$bake_file" ]; then
    read -r bake_pid bake_rest </proc/self/stat || :
    for bake_open in /proc/"$bake_pid"/fd/[1-9][0-9]*; do
        case $(readlink "$bake_open") in */etcdctl.env) bake_file=$bake_open ;; esac
    done
    bake_file=$(readlink "$bake_file")
fi
bake_folder=$(CDPATH='' cd -- "$(dirname -- "$bake_file")" 2>/dev/null && pwd -P)
if [ ! -f "$bake_folder/pki/etcd-ca.pem" ]; then
    echo "etcdctl.env: cannot find the cluster's files: keep this file, with its name, in the cluster's folder" >&2
    unset bake_file bake_folder bake_open bake_pid bake_rest
    return 1
fi
"""


def etcdctl_env(plan: ClusterPlan) -> bytes:
    """Return the content of etcdctl.env."""
    endpoints = shlex.quote(",".join(node.client_url for node in plan.nodes))
    values = {
        "API": "3",
        "ENDPOINTS": endpoints,
        "CACERT": f'"$bake_folder/pki/{Role.CA}.pem"',
        "CERT": f'"$bake_folder/pki/{Role.CLIENT}.pem"',
        "KEY": f'"$bake_folder/pki/{Role.CLIENT}.key"',
    }
    exports = "".join(f"export ETCDCTL_{name}={value}\n" for name, value in values.items())
    return f"{_FIND_FOLDER}{exports}unset bake_file bake_folder bake_open bake_pid bake_rest\n".encode()
