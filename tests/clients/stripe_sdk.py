"""The official Stripe SDK behind the edge: lists customers, then asks for a refund; prints what each gave."""

import json
import os
import sys

import stripe

stripe.api_key = sys.argv[1]
stripe.ca_bundle_path = os.environ["SSL_CERT_FILE"]
stripe.proxy = os.environ["HTTPS_PROXY"]
stripe.max_network_retries = 0

said = {"customers": len(stripe.Customer.list(limit=3).data)}
try:
    said["created"] = stripe.Customer.create(email="new@example.com").email
except stripe.StripeError as error:
    said["refused"] = {"status": error.http_status, "body": error.http_body}
print(json.dumps(said))
