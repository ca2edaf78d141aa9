"""As much of X as two accounts write to each other on, encrypted, with X's own SDK (chatxdk) in one person's hand.

Takes the secret that webhooks are signed with and the bot's access token; prints where it listens. What is not X's begins with
/_: /_account tells the bot's keys, /_read what the person has read, and /_write what X's webhook says when the person writes.
"""

import base64
import hashlib
import hmac
import http.server
import json
import sys
import threading
import time

import xchat_sdk as sdk

SECRET, TOKEN = sys.argv[1:]
BOT, PERSON = "1111111111111111111", "2222222222222222222"
CONVERSATION = f"{BOT}:{PERSON}"


class Town:
    """What X keeps, and what the person has of it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.bot = {"id": BOT, **sdk.identity(None)}
        self.person = {"id": PERSON, **sdk.identity(None)}
        self.forger = {"id": PERSON, **sdk.identity(None)}
        self.changes, self.messages, self.bodies = [], [], []

    def take(self, path, body):
        """A change of keys, or a message: X puts it together and cannot read it."""
        self.bodies.append(json.dumps(body))
        asked = {"sender": BOT, "conversation": CONVERSATION, "at": milliseconds(), "bodies": [body]}
        made = sdk.relayed(asked)["events"][0]
        (self.changes if path.endswith("/keys") else self.messages).append(made)
        return made

    def read(self):
        others = [{"id": it["id"], "registered": it["registered"]} for it in (self.bot, self.person)]
        asked = {"reader": self.person, "others": others, "events": self.changes + self.messages}
        made = sdk.read(asked)
        texts = [it["text"] for it in made["messages"] if it["type"].lower() == "message" and it["verified"]]
        return {"texts": texts, "errors": made["errors"]}

    def write(self, text, forged):
        reader = sdk.opened(self.person)
        keys = reader.extract_conversation_keys(self.changes)
        if not keys["keys"]:
            made = sdk.key_change({"sender": self.person, "other": self.bot, "at": milliseconds()})
            self.changes.append(made["event"])
            keys = reader.extract_conversation_keys(self.changes)
        version = max(keys["keys"], key=int)
        sent = sdk.message(
            {
                "sender": {**self.forger, "registered": self.person["registered"]} if forged else self.person,
                "conversation": CONVERSATION,
                "text": text,
                "key": base64.b64encode(keys["keys"][version]).decode(),
                "version": version,
                "at": milliseconds(),
            }
        )
        payload = {
            "conversation_id": CONVERSATION.replace(":", "-"),
            "sender_id": PERSON,
            "encoded_event": sent["event"],
            "conversation_key_version": version,
        }
        return {"data": {"event_type": "chat.received", "event_uuid": sent["message_id"], "payload": payload}}


def milliseconds():
    return int(time.time() * 1000)


def signed(event):
    """A webhook of X's: its body, and the header that proves whose it is."""
    body = json.dumps(event)
    mac = base64.b64encode(hmac.new(SECRET.encode(), body.encode(), hashlib.sha256).digest()).decode()
    return {"body": body, "signature": f"sha256={mac}"}


class Asked(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        with TOWN.lock:
            if path == "/_read":
                return self.answer(200, TOWN.read())
            if path == "/_account":
                return self.answer(200, {"account": TOWN.bot, "bodies": TOWN.bodies})
            if self.headers["authorization"] != f"Bearer {TOKEN}":
                return self.answer(401, {"title": "Unauthorized"})
            if path == f"/2/users/{PERSON}/public_keys":
                return self.answer(200, {"data": [TOWN.person["registered"]]})
            if path == f"/2/chat/conversations/{PERSON}/events":
                if not TOWN.changes:
                    return self.answer(404, {"title": "Not Found"})
                return self.answer(200, {"data": [], "meta": {"conversation_key_events": TOWN.changes}})
        return self.answer(404, {"title": "Not Found"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/_write":
            with TOWN.lock:
                event = TOWN.write(body["text"], body.get("forged", False))
            return self.answer(200, signed(event))
        if self.headers["authorization"] != f"Bearer {TOKEN}":
            return self.answer(401, {"title": "Unauthorized"})
        with TOWN.lock:
            if self.path == f"/2/chat/conversations/{PERSON}/keys":
                TOWN.take(self.path, body)
                return self.answer(200, {"data": {"sequence_id": str(len(TOWN.changes))}})
            if self.path == f"/2/chat/conversations/{PERSON}/messages":
                return self.answer(201, {"data": {"encoded_message_event": TOWN.take(self.path, body)}})
        return self.answer(404, {"title": "Not Found"})


TOWN = Town()
SERVER = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Asked)
print(f"http://127.0.0.1:{SERVER.server_port}", flush=True)
SERVER.serve_forever()
