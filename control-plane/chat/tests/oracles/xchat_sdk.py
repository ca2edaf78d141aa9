"""Both ends of X's encrypted chat by X's own SDK (chatxdk), and as much of X between them as puts an event together."""

import base64
import json
import struct
import sys

import chat_xdk


def text64(data):
    return base64.b64encode(bytes(data)).decode()


def field(kind, number, value):
    return struct.pack(">bh", kind, number) + value


def string(number, value):
    value = value.encode()
    return field(11, number, struct.pack(">i", len(value)) + value)


def event(said, detail, signature):
    """A MessageEvent around a detail and a signature that are written already."""
    return text64(
        string(1, str(said.get("sequence", 1)))
        + string(2, said["message_id"])
        + string(3, said["sender"])
        + string(4, said["conversation"])
        + string(6, str(said["at"]))
        + field(12, 7, detail)
        + (field(12, 9, signature) if signature else b"")
        + b"\0"
    )


def signature_of(signed):
    return (
        string(1, signed["signature"])
        + string(2, signed["public_key_version"])
        + string(3, signed["signature_version"])
        + b"\0"
    )


def opened(person):
    chat = chat_xdk.Chat()
    chat.import_keys(base64.b64decode(person["private_keys"]), person["registered"]["public_key_version"])
    chat.set_identity(person["id"], person["registered"]["public_key_version"])
    return chat


def identity(_):
    chat = chat_xdk.Chat()
    made = chat.generate_keypairs()
    return {
        "private_keys": text64(chat.export_keys()),
        "registered": {
            "public_key_version": made.version,
            "public_key": made.public_key.public_key,
            "signing_public_key": made.public_key.signing_public_key,
            "identity_public_key_signature": made.public_key.identity_public_key_signature,
        },
    }


def key_change(asked):
    """One side gives a conversation a key; as X tells the other."""
    people = [asked["sender"], asked["other"]]
    change = opened(asked["sender"]).prepare_conversation_key_change(
        [
            {
                "user_id": it["id"],
                "public_key": it["registered"]["public_key"],
                "key_version": it["registered"]["public_key_version"],
            }
            for it in people
        ]
    )
    signed = change["action_signatures"][0]
    said = {
        "message_id": signed["message_id"],
        "sender": asked["sender"]["id"],
        "conversation": change["conversation_id"],
        "at": asked["at"],
    }
    return {
        "event": event(said, base64.b64decode(signed["encoded_message_event_detail"]), signature_of(signed)),
        "key": text64(change["conversation_key"]),
        "version": change["conversation_key_version"],
    }


def message(asked):
    """One side writes, or reacts; as X tells the other."""
    common = {
        "conversation_key": base64.b64decode(asked["key"]),
        "conversation_key_version": asked["version"],
    }
    chat = opened(asked["sender"])
    if "reaction" in asked:
        sent = chat.encrypt_add_reaction(
            emoji=asked["reaction"],
            conversation_id=asked["conversation"],
            target_message_sequence_id="1",
            **common,
        )
    else:
        sent = chat.encrypt_message(asked["conversation"], asked["text"], **common)
    said = {
        "message_id": sent.message_id,
        "sender": asked["sender"]["id"],
        "conversation": asked["conversation"],
        "at": asked["at"],
    }
    created = base64.b64decode(sent.encrypted_content)
    signed = base64.b64decode(sent.encoded_event_signature)
    return {
        "event": event(said, field(12, 1, created) + b"\0", signed),
        "message_id": sent.message_id,
    }


def relayed(asked):
    """What X makes of the bodies of calls to /keys and /messages."""
    events = []
    for at, body in enumerate(asked["bodies"], 1):
        said = {"sender": asked["sender"], "conversation": asked["conversation"], "at": asked["at"], "sequence": at}
        if "action_signatures" in body:
            action = body["action_signatures"][0]
            said["message_id"] = action["message_id"]
            detail = base64.b64decode(action["encoded_message_event_detail"])
            events.append(event(said, detail, signature_of(action["message_event_signature"])))
        else:
            said["message_id"] = body["message_id"]
            detail = field(12, 1, base64.b64decode(body["encoded_message_create_event"])) + b"\0"
            events.append(event(said, detail, base64.b64decode(body["encoded_message_event_signature"])))
    return {"events": events}


def read(asked):
    """What one side makes of events, with the other's keys as X has them."""
    keys = [
        {
            "user_id": it["id"],
            "public_key_version": it["registered"]["public_key_version"],
            "public_key": it["registered"]["signing_public_key"],
            "identity_public_key": it["registered"]["public_key"],
            "identity_public_key_signature": it["registered"]["identity_public_key_signature"],
        }
        for it in asked["others"]
    ]
    made = opened(asked["reader"]).decrypt_events(asked["events"], keys)
    messages = []
    for it in made["messages"]:
        it = it.get("event", it)
        content = it.get("content") or {}
        messages.append({"type": it["type"], "verified": it.get("verified"), "text": content.get("text")})
    return {"messages": messages, "errors": {str(at): str(why) for at, why in made["errors"].items()}}


DOES = {"identity": identity, "key_change": key_change, "message": message, "read": read, "relayed": relayed}
if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump(DOES[asked["do"]](asked), sys.stdout)
