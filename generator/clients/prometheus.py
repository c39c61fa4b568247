"""Prometheus' configuration: a scrape job with the client certificate, alert rules, and a dashboard for Grafana."""

from __future__ import annotations

from generator.clients.alerts import alert_rules
from generator.clients.application import CA, CERTIFICATE, KEY, Application, Configuration, text_file
from generator.clients.dashboard import dashboard
from generator.config import yaml12

FOLDER = "/etc/prometheus/etcd"
RULES, DASHBOARD = "rules.yml", "dashboard.json"


def configuration(app: Application) -> Configuration:
    """Return a configuration that Prometheus can load, the alert rules, and the dashboard."""
    plan = app.plan
    targets = [
        {"targets": [host], "labels": {"cluster": plan.name, "node": node.name}}
        for node, host in zip(plan.nodes, app.hosts, strict=True)
    ]
    files = {"ca_file": CA, "cert_file": CERTIFICATE, "key_file": KEY}
    job = {
        "job_name": f"etcd-{plan.name}",
        "scheme": "https",
        "tls_config": {name: app.path(file) for name, file in files.items()},
        "static_configs": targets,
    }
    scrape = {"rule_files": [f"{app.folder}/{RULES}"], "scrape_configs": [job]}
    return Configuration(
        shown=(text_file("prometheus.yml", yaml12.dump(scrape)),),
        others=(text_file(RULES, yaml12.dump(alert_rules(plan))), text_file(DASHBOARD, dashboard(plan))),
        steps=(
            f"copy {CA}, {CERTIFICATE}, {KEY} and {RULES} to {app.folder} on Prometheus' machine; Prometheus' account "
            f"must be able to read {KEY}",
            f"add the job and {RULES} to Prometheus' configuration, and import {DASHBOARD} in Grafana",
            "no metric shows when certificates expire; let a timer run: bake certs --within 30d",
        ),
    )
