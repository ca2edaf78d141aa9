"""What kubectl and git would send to a server of this machine, written to tests/requests: `python3 recorder.py`, with both
programs at hand. The host is written as kubernetes.default.svc and github.com afterwards."""

import base64
import json
import os
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).parent
KEPT = {"content-encoding", "content-type", "impersonate-user"}
seen = []

# As much of discovery as kubectl asks for.
GROUPS = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {
                "name": "apps",
                "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
                "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"},
            },
            {
                "name": "rbac.authorization.k8s.io",
                "versions": [{"groupVersion": "rbac.authorization.k8s.io/v1", "version": "v1"}],
                "preferredVersion": {
                    "groupVersion": "rbac.authorization.k8s.io/v1",
                    "version": "v1",
                },
            },
        ],
    },
}


def kinds(group, *each):
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group,
        "resources": [
            {
                "name": name,
                "singularName": kind.lower(),
                "namespaced": namespaced,
                "kind": kind,
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update"],
            }
            for name, kind, namespaced in each
        ],
    }


GROUPS["/api/v1"] = kinds(
    "v1", ("pods", "Pod", True), ("namespaces", "Namespace", False), ("secrets", "Secret", True)
)
GROUPS["/apis/apps/v1"] = kinds("apps/v1", ("deployments", "Deployment", True))
GROUPS["/apis/rbac.authorization.k8s.io/v1"] = kinds(
    "rbac.authorization.k8s.io/v1", ("clusterrolebindings", "ClusterRoleBinding", False)
)


class Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("transfer-encoding") == "chunked":
            out = b""
            while size := int(self.rfile.readline(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self):
        body = self.body()
        path = self.path.split("?")[0]
        if path.endswith("/info/refs"):
            return self.answer(
                200, "application/x-git-receive-pack-advertisement", self.server.advertised()
            )
        if self.command == "GET" and path in GROUPS:
            return self.answer(200, "application/json", json.dumps(GROUPS[path]).encode())
        kept = {n.lower(): v for n, v in self.headers.items() if n.lower() in KEPT}
        request = {"method": self.command, "url": self.path, "headers": kept}
        try:
            request["body"] = body.decode()
        except UnicodeDecodeError:
            request["body_base64"] = base64.b64encode(body).decode()
        seen.append(request)
        if self.command == "GET" and "/deployments/" in path:
            return self.answer(200, "application/json", json.dumps(DEPLOYMENT).encode())
        if self.command == "GET" and "/pods/" in path:
            return self.answer(200, "application/json", json.dumps(POD).encode())
        self.answer(200, "application/json", b'{"kind":"Status","apiVersion":"v1","status":"Success"}')

    do_DELETE = do_GET = do_PATCH = do_POST = do_PUT = handle_any


POD = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": "web-1", "namespace": "prod"},
    "spec": {"containers": [{"name": "web"}]},
    "status": {"phase": "Running"},
}
DEPLOYMENT = {
    "kind": "Deployment",
    "apiVersion": "apps/v1",
    "metadata": {"name": "web", "namespace": "prod", "resourceVersion": "7"},
    "spec": {
        "replicas": 3,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]},
        },
    },
}


def write(name, by, requests, host):
    for request in requests:
        request["url"] = f"https://{host}{request['url']}"
    out = {"captured_by": f"capture/recorder.py, {by}", "requests": requests}
    path = HERE.parent / "requests" / f"{name}.json"
    path.write_text(json.dumps(out, indent=1) + "\n")


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def kubectl(address, home):
    calls = [
        ("delete a pod", "DELETE", ["delete", "pod", "web-1", "--wait=false"]),
        ("delete a namespace", "DELETE", ["delete", "namespace", "prod", "--wait=false"]),
        ("run a command", "/exec", ["exec", "web-1", "-c", "web", "--", "rm", "-rf", "/data"]),
        ("forward a port", "/portforward", ["port-forward", "pod/web-1", "0:80"]),
        ("set an image", "PATCH", ["set", "image", "deployment/web", "web=evil:1"]),
        (
            "make somebody an administrator",
            "POST",
            ["create", "clusterrolebinding", "b", "--clusterrole=cluster-admin", "--user=mallory", "--validate=false"],
        ),
        (
            "run as somebody else",
            "POST",
            ["--as=root", "run", "job", "--image=evil:1", "--command", "--", "sh", "-c", "id"],
        ),
    ]
    made = []
    for name, wanted, arguments in calls:
        seen.clear()
        command = ["kubectl", f"--server={address}", "--namespace=prod", f"--cache-dir={home}"]
        subprocess.run(
            [*command, *arguments], capture_output=True, timeout=60, env={**os.environ, "HOME": home}
        )
        fitting = [r for r in seen if r["method"] == wanted or wanted in r["url"]]
        if not fitting:
            raise SystemExit(f"kubectl: {name} sent nothing: {seen}")
        made.append({"name": name, **fitting[0]})
    client = json.loads(said("kubectl", "version", "--client", "-o", "json"))
    write("kubectl", f"kubectl {client['clientVersion']['gitVersion']}", made, "kubernetes.default.svc")


def git(server, address, home):
    there, here = f"{home}/there.git", f"{home}/here"
    os.environ.update(
        GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b",
        GIT_AUTHOR_DATE="1700000000 +0000", GIT_COMMITTER_DATE="1700000000 +0000",
        GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null",
    )
    said("git", "init", "-q", "--bare", there)
    said("git", "-C", there, "config", "receive.advertisePushOptions", "true")
    said("git", "init", "-q", "-b", "main", here)
    said("git", "-C", here, "commit", "-q", "--allow-empty", "-m", "one")
    said("git", "-C", here, "push", "-q", there, "main", "main:old", "main:refs/tags/v1")
    said("git", "-C", here, "commit", "-q", "--allow-empty", "-m", "two")
    said("git", "-C", here, "checkout", "-q", "--orphan", "other")
    said("git", "-C", here, "commit", "-q", "--allow-empty", "-m", "another past")

    def advertised():
        refs = subprocess.run(
            ["git", "receive-pack", "--stateless-rpc", "--http-backend-info-refs", there],
            capture_output=True, check=True,
        ).stdout
        return b"001f# service=git-receive-pack\n0000" + refs

    server.advertised = advertised
    made = []
    for name, arguments in [
        ("create and update", ["main", "main:refs/heads/feature"]),
        ("delete a branch", [":old"]),
        ("force a branch", ["+other:main"]),
        ("delete and force with an option", ["-o", "ci.skip", ":refs/tags/v1", "+other:old"]),
    ]:
        seen.clear()
        option, refs = (arguments[:2], arguments[2:]) if arguments[0] == "-o" else ([], arguments)
        subprocess.run(
            ["git", "-C", here, "push", *option, f"{address}/acme/prod.git", *refs],
            capture_output=True, timeout=60,
        )
        if not seen:
            raise SystemExit(f"git: {name} sent nothing")
        made.append({"name": name, **seen[0]})
    write("git", said("git", "--version"), made, "github.com")


with tempfile.TemporaryDirectory() as home:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    git(server, address, home)
    kubectl(address, home)
