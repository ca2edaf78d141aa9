"""The vendor's own signer: slack-sdk's SignatureVerifier, over what it is asked to sign."""
import json
import sys

from slack_sdk.signature import SignatureVerifier

asked = json.load(sys.stdin)
verifier = SignatureVerifier(asked["secret"])
signature = verifier.generate_signature(timestamp=str(asked["timestamp"]), body=asked["body"])
json.dump({"signature": signature}, sys.stdout)
