"""Whether a request was signed as its receiver wants it: KIND SECRET, and {"headers": …, "body": …} on standard input.

KIND is standard-webhooks (by the library of that name, which takes nothing older than five minutes) or github.
Prints "valid", or fails.
"""

import hashlib
import hmac
import json
import sys

from standardwebhooks import Webhook

kind, secret = sys.argv[1:]
arrived = json.load(sys.stdin)
body, headers = arrived["body"], arrived["headers"]
if kind == "standard-webhooks":
    Webhook(secret).verify(body, headers)
else:
    made = "sha256=" + hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
    assert hmac.compare_digest(made, headers["x-hub-signature-256"])
print("valid")
