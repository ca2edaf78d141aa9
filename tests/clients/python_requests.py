"""Python requests behind the edge: METHOD URL AUTHORIZATION [BODY]; prints {status, body}."""

import json
import sys

import requests

method, url, authorization, *body = sys.argv[1:]
answer = requests.request(method, url, headers={"Authorization": authorization}, data=body[0] if body else None)
print(json.dumps({"status": answer.status_code, "body": answer.text}))
