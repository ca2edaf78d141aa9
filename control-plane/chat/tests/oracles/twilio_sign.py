"""The vendor's own RequestValidator: signs what it is asked to, or says whether it takes what was signed."""
import json
import sys
from urllib.parse import parse_qsl

from twilio.request_validator import RequestValidator

asked = json.load(sys.stdin)
validator = RequestValidator(asked["secret"])
params = lambda body: dict(parse_qsl(body, keep_blank_values=True))
if "url" in asked:
    answer = {"signature": validator.compute_signature(asked["url"], params(asked["body"]))}
else:
    answer = [
        validator.validate(hook["url"], params(hook["body"]), hook["headers"].get("x-twilio-signature", ""))
        for hook in asked["hooks"]
    ]
json.dump(answer, sys.stdout)
