"""Python's own hmac, over what it is asked to sign: a second signer where a platform's vendor has published none."""
import base64
import hashlib
import hmac
import json
import sys

asked = json.load(sys.stdin)
mac = hmac.new(asked["secret"].encode(), asked["text"].encode(), hashlib.sha256).digest()
json.dump({"hex": mac.hex(), "base64": base64.b64encode(mac).decode()}, sys.stdout)
