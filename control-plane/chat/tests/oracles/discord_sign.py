"""Signs as Discord does, with PyNaCl: Ed25519 over timestamp and body. The seed is made of what it is told."""
import hashlib
import json
import sys

from nacl.signing import SigningKey

asked = json.load(sys.stdin)
key = SigningKey(hashlib.sha256(asked["secret"].encode()).digest())
signed = key.sign((str(asked["timestamp"]) + asked["body"]).encode()).signature
json.dump({"signature": signed.hex(), "public_key": key.verify_key.encode().hex()}, sys.stdout)
