"""Signs as Webex does, with Python's own hmac: HMAC-SHA1 over the body, in hexadecimal digits."""
import hashlib
import hmac
import json
import sys

asked = json.load(sys.stdin)
signature = hmac.new(asked["secret"].encode(), asked["body"].encode(), hashlib.sha1).hexdigest()
json.dump({"signature": signature}, sys.stdout)
