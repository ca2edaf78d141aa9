"""What a client of Gmail sends, as its guide has it: a mail of Python's email library, in base64url; to tests/requests."""

import base64
import json
import platform
from email.message import EmailMessage
from pathlib import Path


def mail(**headers):
    message = EmailMessage()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return message


def request(name, path, body):
    return {
        "name": name,
        "method": "POST",
        "url": f"https://gmail.googleapis.com/gmail/v1/users/me/{path}",
        "headers": {"content-type": "application/json"},
        "body": json.dumps(body),
    }


def raw(message):
    return base64.urlsafe_b64encode(message.as_bytes()).decode()


plain = mail(To="ana@example.com", From="bot@example.com", Subject="Numbers")
plain.set_content("They are as we thought.\n")

three = mail(
    To='"Ana, of sales" <ana@example.com>, ben@example.com',
    Bcc="eve@elsewhere.example",
    From="bot@example.com",
    Subject="Überraschung für alle, und zwar eine lange, die über eine Zeile geht und noch weiter",
    In_Reply_To="<1@example.com>",
)
three.set_content("Grüße\n")
three.add_alternative("<p>Something else entirely</p>\n", subtype="html")
three.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="salaries.png")

twice = base64.urlsafe_b64encode(
    b"To: ana@example.com\r\nTo: eve@elsewhere.example\r\nSubject: a\r\n\r\nb\r\n"
).decode()

made = [
    request("send plainly", "messages/send", {"raw": raw(plain)}),
    request("send to three with an attachment", "messages/send", {"raw": raw(three), "threadId": "t1"}),
    request("draft", "drafts", {"message": {"raw": raw(plain)}}),
    request("two headers To", "messages/send", {"raw": twice}),
]
out = {
    "captured_by": f"capture/mails.py, email of Python {platform.python_version()}",
    "requests": made,
}
path = Path(__file__).parent.parent / "requests" / "gmail.json"
path.write_text(json.dumps(out, indent=1) + "\n")
