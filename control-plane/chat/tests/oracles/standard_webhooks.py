"""Standard Webhooks' own library: signs what it is asked to, or says whether it takes what was signed."""
import json
import sys
from datetime import datetime, timezone

from standardwebhooks.webhooks import Webhook

asked = json.load(sys.stdin)
webhook = Webhook(asked["secret"])
if "sign" in asked:
    at = datetime.fromtimestamp(asked["at"], tz=timezone.utc)
    answer = {"signature": webhook.sign(asked["id"], at, asked["sign"])}
else:
    answer = []
    for hook in asked["hooks"]:
        try:
            webhook.verify(hook["body"], hook["headers"])
            answer.append(True)
        except Exception:  # whatever it raises, it refuses
            answer.append(False)
json.dump(answer, sys.stdout)
