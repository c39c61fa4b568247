"""Values of etcd's options that a real etcd accepts, rejects or ignores. `test_etcd_options` starts etcd with each row.

The tests leave out options that the version of etcd does not have.
"""

from __future__ import annotations

from typing import Any

Options = dict[str, Any]
DURATIONS = ("1h30m", "1.5h", "100ms", ".5s", "0", "1us", "2562047h")

ACCEPTED: tuple[Options, ...] = (  # etcd starts with each of these rows
    {
        "heartbeat-interval": 200, "election-timeout": 1000, "pre-vote": False, "auto-compaction-retention": "1h",
        "log-level": "debug", "tls-max-version": "TLS1.2", "metrics": "extensive", "logger": "zap",
        "backend-bbolt-freelist-type": "array", "auth-token": "simple", "bcrypt-cost": 4, "auth-token-ttl": 1,
        "quota-backend-bytes": -1, "cors": "https://[fd00::1]:8080,https://*.example.test:443",
        "v2-deprecation": "write-only", "experimental-compact-hash-check-time": "1m", "compact-hash-check-time": "1m",
        "feature-gates": "InitialCorruptCheck=true", "max-learners": 2, "host-whitelist": "a,b*",
        "experimental-enable-lease-checkpoint": True, "experimental-enable-lease-checkpoint-persist": True,
        "experimental-enable-distributed-tracing": False, "log-format": "console",
    },
    {
        "heartbeat-interval": 1, "election-timeout": 5, "auto-compaction-retention": 1,
        "auto-compaction-mode": "revision", "log-level": "WARN", "tls-max-version": "TLS1.3", "metrics": "basic",
        "backend-bbolt-freelist-type": "map", "bcrypt-cost": 31, "quota-backend-bytes": 8 << 30, "cors": "*",
        "v2-deprecation": "write-only", "enable-pprof": True,
        "listen-metrics-urls": "http://127.77.3.1:2381", "max-concurrent-streams": 2**32 - 1, "log-format": "json",
        "feature-gates": "LeaseCheckpoint=true,LeaseCheckpointPersist=true,AllBeta=false",
        "socket-reuse-port": True, "experimental-stop-grpc-service-on-defrag": True,
    },
    {"log-level": "dpanic", "auto-compaction-mode": "periodic", "auto-compaction-retention": "0",
     "snapshot-count": 0, "max-snapshots": 0, "max-wals": 0, "backend-batch-limit": 0},
    {"log-level": "error", "auto-compaction-retention": "10000", "auto-compaction-mode": "revision",
     "grpc-keepalive-interval": "0", "experimental-compaction-batch-limit": 0, "compaction-batch-limit": 0},
    *({"grpc-keepalive-min-time": value} for value in DURATIONS),
    {"auto-compaction-retention": "2562047h"},
)  # fmt: skip
REJECTED: tuple[Options, ...] = (  # etcd exits at once with each of these rows
    {"heartbeat-interval": 0},
    {"heartbeat-interval": -1},
    {"election-timeout": 0},
    {"heartbeat-interval": 250},
    {"election-timeout": 499},
    {"election-timeout": 50001},
    {"snapshot-count": -1},
    {"max-concurrent-streams": 2**32},
    {"quota-backend-bytes": -(2**63) - 1},
    {"bcrypt-cost": -1},
    {"log-level": "verbose"},
    {"log-level": "warning"},
    {"logger": "capnslog"},
    {"logger": "zapp"},
    {"log-format": "text"},
    {"tls-max-version": "TLS1.1"},
    {"tls-max-version": "1.3"},
    {"auto-compaction-mode": "hourly"},
    {"auto-compaction-mode": "Periodic"},
    {"auto-compaction-retention": "1d"},
    {"auto-compaction-retention": "1ns"},
    {"auto-compaction-retention": "1 h"},
    {"auto-compaction-retention": "-1"},
    {"auto-compaction-retention": "1.5"},
    *({"grpc-keepalive-min-time": value} for value in ("5", 5, "1d", "s", ".s", "1h30", "2562048h", "1e3s")),
    {"backend-batch-interval": "soon"},
    {"experimental-compact-hash-check-time": "0"},
    {"compact-hash-check-time": "0s"},
    {"cors": "https://ui.example"},
    {"cors": "ui.example:443"},
    {"cors": "https://ui.example:443/path"},
    {"cors": "*,https://ui.example:443"},
    {"listen-metrics-urls": "http://metrics.example:2381"},
    {"listen-metrics-urls": "http://127.0.0.1"},
    {"listen-metrics-urls": "127.0.0.1:2381"},
    {"auth-token": "bearer"},
    {"auth-token": "jwt"},
    {"auth-token": "simple,x"},
    {"v2-deprecation": "never"},
    {"experimental-enable-lease-checkpoint-persist": True},
    {"feature-gates": "LeaseCheckpointPersist=true"},
    {"feature-gates": "NoSuchGate=true"},
    {"feature-gates": "CompactHashCheck"},
    {"feature-gates": "CompactHashCheck=perhaps"},
)
IGNORED: tuple[Options, ...] = (  # etcd starts, but ignores or changes these values
    {"metrics": "full"},
    {"backend-bbolt-freelist-type": "hashmap"},
    {"bcrypt-cost": 3},
    {"bcrypt-cost": 32},
    {"auth-token": "simple,ttl=1m"},
    {"auto-compaction-mode": "revision", "auto-compaction-retention": "1h"},
    {"max-txn-ops": 0},
    {"quota-backend-bytes": 1},
    {"auto-compaction-retention": "500ms"},
    {"v2-deprecation": "write-only,gone"},
    {"grpc-keepalive-min-time": "-5s"},
)
