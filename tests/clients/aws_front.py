"""AWS as far as tests need it: moto behind a front of our own that verifies each signature with botocore.

aws_front.py PORT CERTIFICATE KEY LOG ACCESS_KEY_ID SECRET_ACCESS_KEY

moto takes any signature. The front takes only those that the real key made within the last minute; whatever else comes is
403 and goes no further. Each request is a line of JSON in LOG: what came, whether its signature was valid, and how old it was.
"""

import datetime
import http.client
import http.server
import json
import ssl
import sys
import threading

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.server import ThreadedMotoServer

port, certificate, key, log, access_key_id, secret = sys.argv[1:]
moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
moto.start()
moto_port = moto.get_host_and_port()[1]
writing = threading.Lock()


def signature(method, url, headers, body, authorization):
    """What the signature of this very request should be; headers as they arrived."""
    said = dict(part.strip().split("=", 1) for part in authorization.split(" ", 1)[1].split(","))
    _, _, region, service, _ = said["Credential"].split("/")
    signed = said["SignedHeaders"].split(";")
    request = AWSRequest(method=method, url=url, data=body,
                         headers={name: headers[name] for name in signed if name != "host"})
    request.context["timestamp"] = headers["x-amz-date"]
    signer = (S3SigV4Auth if service == "s3" else SigV4Auth)(Credentials(access_key_id, secret), service, region)
    made = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    return said["Credential"].split("/")[0], said["Signature"], made


class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        url = f"https://{headers['host']}{self.path}"
        try:
            who, sent, made = signature(self.command, url, headers, body, headers["authorization"])
            date = datetime.datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
            age = (datetime.datetime.now(datetime.timezone.utc) - date).total_seconds()
            valid = who == access_key_id and sent == made and -5 <= age <= 60
        except Exception as why:  # whatever it is, it is not signed
            who, age, valid = repr(why), None, False
        seen = {"method": self.command, "url": url, "valid": valid, "age": age, "who": who,
                "headers": headers, "body": body.decode("latin-1")}
        with writing, open(log, "a") as out:
            out.write(json.dumps(seen) + "\n")
        if valid:
            connection = http.client.HTTPConnection("127.0.0.1", moto_port)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            status, content, named = answer.status, answer.read(), answer.getheaders()
        else:
            status, content, named = 403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>", []
        self.send_response(status)
        for name, value in named:
            if name.lower() not in ("connection", "content-length", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("content-length", answer.getheader("content-length", "0") if valid and self.command == "HEAD"
                         else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Front)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
