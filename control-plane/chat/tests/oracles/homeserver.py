"""A real homeserver of Matrix: becomes Synapse, on a port and in a folder that it is told, with a database of its own and
without limits to how often anybody says something."""

import json
import os
import subprocess
import sys

port, folder = int(sys.argv[1]), os.path.abspath(sys.argv[2])
unlimited = {"per_second": 1000, "burst_count": 1000}
configuration = {
    "server_name": "countersign.test",
    "listeners": [
        {
            "port": port,
            "bind_addresses": ["127.0.0.1"],
            "type": "http",
            "tls": False,
            "resources": [{"names": ["client"]}],
        }
    ],
    "database": {"name": "sqlite3", "args": {"database": os.path.join(folder, "database")}},
    "media_store_path": os.path.join(folder, "media"),
    "signing_key_path": os.path.join(folder, "signing.key"),
    "trusted_key_servers": [],
    "report_stats": False,
    "enable_registration": True,
    "enable_registration_without_verification": True,
    "macaroon_secret_key": "a",
    "form_secret": "b",
    "rc_message": unlimited,
    "rc_registration": unlimited,
    "rc_joins": {"local": unlimited},
    "rc_invites": {"per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited},
    "rc_room_creation": unlimited,
}
path = os.path.join(folder, "homeserver.yaml")
with open(path, "w") as file:
    json.dump(configuration, file)  # JSON is YAML.
os.chdir(folder)
synapse = [sys.executable, "-m", "synapse.app.homeserver", "--config-path", path]
subprocess.run([*synapse, "--generate-keys"], check=True)
os.execv(sys.executable, synapse)
