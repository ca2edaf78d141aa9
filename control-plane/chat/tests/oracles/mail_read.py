"""How Python's own library reads a mail: its headers in order, and its parts."""

import base64
import email
import email.policy
import json
import sys

raw = base64.b64decode(json.load(sys.stdin)["message"])
lines = raw.split(b"\r\n")
mail = email.message_from_bytes(raw, policy=email.policy.default)
parts = [part for part in mail.walk() if not part.is_multipart()]
json.dump(
    {
        "headers": [[name, str(value)] for name, value in mail.items()],
        "type": mail.get_content_type(),
        "parts": [
            {"type": part.get_content_type(), "headers": [[n, str(v)] for n, v in part.items()], "text": part.get_content()}
            for part in parts
        ],
        "defects": [str(defect) for part in mail.walk() for defect in part.defects],
        "longest_line": max(len(line) for line in lines),
        "bare_line_breaks": sum(b"\n" in line or b"\r" in line for line in lines),
        "ascii": raw.isascii(),
    },
    sys.stdout,
)
