"""A mail server that others wrote (aiosmtpd). It writes down, a JSON object a line, what is said to it: who greets, who logs
in, and what it is handed. The first mail after `swallow` was made is taken, and its sender never hears of it."""

import base64
import json
import os
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

settings = json.loads(sys.argv[1])
said = open(settings["said"], "a", buffering=1)


def note(event, server, **more):
    tls = server.transport.get_extra_info("ssl_object") is not None
    said.write(json.dumps({"event": event, "tls": tls, **more}) + "\n")


class Handler:
    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        note("greeting", server, name=hostname)
        session.host_name = hostname
        return responses

    async def handle_MAIL(self, server, session, envelope, address, options):
        note("from", server, address=address)
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        note("to", server, address=address)
        if address.startswith("nobody@"):
            return "550 5.1.1 there is nobody of that name"
        if address.startswith("later@"):
            return "450 4.2.1 come again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        raw = base64.b64encode(envelope.content).decode()
        note("mail", server, to=envelope.rcpt_tos, login=session.auth_data, raw=raw)
        if os.path.exists(settings["swallow"]):
            os.unlink(settings["swallow"])
            server.transport.abort()
        return "250 taken"


def authenticator(server, session, envelope, mechanism, login):
    user, password = login.login.decode(), login.password.decode()
    genuine = (user, password) == (settings["user"], settings["password"])
    note("login", server, user=user, genuine=genuine)
    return AuthResult(success=genuine, handled=False, auth_data=user)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(settings["certificate"], settings["key"])
implicit = settings["tls"] == "implicit"
controller = Controller(
    Handler(),
    hostname="127.0.0.1",
    port=settings["port"],
    ssl_context=context if implicit else None,
    server_kwargs={
        "tls_context": None if implicit else context,
        "require_starttls": not implicit,
        "authenticator": authenticator,
        "auth_required": True,
        # Under TLS from the first byte on it does not know that there is TLS.
        "auth_require_tls": not implicit,
    },
)
controller.start()
sys.stdin.read()
controller.stop()
