#!/usr/bin/env python3
"""Requests signed by botocore (AWS Signature Version 4), for the control plane to be compared with.

    make_sigv4.py            writes sigv4.json beside this file
    make_sigv4.py --check    fails if sigv4.json is not what would be written

It needs botocore, which boto3 of tests/requirements.txt brings. The keys are those of AWS's own examples.
"""

import datetime
import itertools
import json
import pathlib
import sys

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

HERE = pathlib.Path(__file__).parent
KEY = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
TOKEN = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQW=="
WHENS = [datetime.datetime(2026, 11, 26, 9, 22, 9), datetime.datetime(2000, 2, 29, 23, 59, 59)]

# (service, method, host, target, headers, body)
REQUESTS = [
    ("s3", "GET", "s3.eu-central-1.amazonaws.com", "/bucket/key", {}, b""),
    ("s3", "GET", "s3.eu-central-1.amazonaws.com", "/bucket/a%20b%2Bc/%C3%A9~%28x%29%27", {}, b""),
    ("s3", "GET", "s3.eu-central-1.amazonaws.com", "/bucket/a//b", {}, b""),
    ("s3", "PUT", "s3.eu-central-1.amazonaws.com", "/bucket/k", {"Content-Type": "text/plain"}, b"hello"),
    ("s3", "PUT", "s3.eu-central-1.amazonaws.com", "/bucket/k", {"x-amz-meta-a": "  b   c  "}, bytes(range(256))),
    ("s3", "DELETE", "bucket.s3.amazonaws.com:8443", "/k?versionId=3%2F4%3D", {}, b""),
    ("s3", "GET", "s3.amazonaws.com", "/b?list-type=2&prefix=a%2Fb%20c&delimiter=%2F&encoding-type=url", {}, b""),
    ("s3", "POST", "s3.amazonaws.com", "/b?delete", {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, b"<Delete/>"),
    ("dynamodb", "POST", "dynamodb.us-east-1.amazonaws.com", "/",
     {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "DynamoDB_20120810.PutItem"}, b'{"TableName":"t"}'),
    ("ec2", "POST", "ec2.us-west-2.amazonaws.com", "/",
     {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
     b"Action=TerminateInstances&InstanceId.1=i-0&Version=2016-11-15"),
    ("lambda", "GET", "lambda.us-east-1.amazonaws.com",
     "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A1%3Afunction%3Af", {}, b""),
    ("execute-api", "GET", "abc.execute-api.us-east-1.amazonaws.com", "//stage///a%20b/", {}, b""),
    ("execute-api", "GET", "abc.execute-api.us-east-1.amazonaws.com", "/stage/?b=2&a=~&a=1&empty=&c", {}, b""),
    ("iam", "GET", "iam.amazonaws.com", "/?Action=ListUsers&Version=2010-05-08",
     {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}, b""),
]


def signed(service, method, host, target, headers, body, region, token, when):
    botocore.auth.get_current_datetime = lambda *_, **__: when
    request = AWSRequest(method=method, url=f"https://{host}{target}", headers=headers, data=body)
    signer = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
    signer(Credentials(*KEY, token), service, region).add_auth(request)
    authorization = request.headers["Authorization"]
    names = authorization.split("SignedHeaders=")[1].split(",")[0]
    made = ("authorization", "x-amz-date", "x-amz-security-token")
    return {
        "method": method, "host": host, "target": target, "body": body.hex(), "region": region, "service": service,
        "headers": [[n.lower(), v.strip()] for n, v in sorted(request.headers.items()) if n.lower() not in made],
        "signed": names, "key": ":".join([*KEY, *([token] if token else [])]),
        "now_ms": int(when.replace(tzinfo=datetime.timezone.utc).timestamp() * 1000), "authorization": authorization,
    }


def main():
    variants = itertools.product(REQUESTS, [None, TOKEN], WHENS)
    vectors = [signed(*request, "eu-central-1", token, when) for request, token, when in variants]
    text = json.dumps(vectors, indent=1, ensure_ascii=True) + "\n"
    path = HERE / "sigv4.json"
    if sys.argv[1:] == ["--check"]:
        if path.read_text() != text:
            sys.exit(f"{path.name} is not what this script writes: run it without --check")
    else:
        path.write_text(text)
    print(f"{len(vectors)} vectors")


if __name__ == "__main__":
    main()
