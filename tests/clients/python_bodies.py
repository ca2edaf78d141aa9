"""Python requests behind the edge, with a key where requests puts it: KIND URL KEY; prints {status, body}.

KIND is form (a client's secret beside other fields), json (a secret inside a document) or cookie.
"""

import json
import sys

import requests

kind, url, key = sys.argv[1:]
client = requests.Session()
if kind == "form":
    answer = client.post(url, data={"grant_type": "client_credentials", "scope": "read write", "client_secret": key})
elif kind == "json":
    answer = client.post(url, json={"auth": {"user": "caf\u00e9", "secret": key}, "amount": 5})
else:
    client.cookies.set("theme", "dark")
    client.cookies.set("sid", key)
    answer = client.get(url)
print(json.dumps({"status": answer.status_code, "body": answer.text}))
