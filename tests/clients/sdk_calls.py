"""What official SDKs for Python send: PORT CA. Each call is made as its documentation has it; every connection, whatever its
host, goes to that port of this machine, and after each call its name is fetched from marker.example.test. What the SDKs make of
the answers does not matter."""

import os
import socket
import sys
import urllib.parse
import urllib.request

PORT, CA = int(sys.argv[1]), sys.argv[2]
for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"]:
    os.environ[name] = CA


def here(host, port, family=0, type=0, proto=0, flags=0):
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", PORT))]


socket.getaddrinfo = here


def calls(service, each):
    for name, call in each.items():
        try:
            call()
        except Exception as error:
            if os.environ.get("LOUD"):
                print(f"{service}: {name}: {error!r}", file=sys.stderr)
        label = urllib.parse.quote(f"{service}: {name}", safe="")
        urllib.request.urlopen(f"https://marker.example.test/{label}").read()


import stripe  # noqa: E402

stripe.api_key, stripe.ca_bundle_path, stripe.max_network_retries = "sk_test_of_nobody", CA, 0
calls("stripe", {
    "refund in part": lambda: stripe.Refund.create(payment_intent="pi_3abc", amount=12000),
    "refund in whole": lambda: stripe.Refund.create(charge="ch_1", reason="fraudulent"),
    "pay out": lambda: stripe.Payout.create(amount=500, currency="jpy", stripe_account="acct_7"),
    "transfer": lambda: stripe.Transfer.create(amount=99, currency="usd", destination="acct_7"),
    "cancel a subscription": lambda: stripe.Subscription.cancel("sub_1"),
    "delete a customer": lambda: stripe.Customer.delete("cus_9"),
    "read a customer": lambda: stripe.Customer.retrieve("cus_9"),
})

import boto3  # noqa: E402
from botocore.config import Config  # noqa: E402

session = boto3.Session(aws_access_key_id="AKIAOFNOBODY", aws_secret_access_key="of nobody", region_name="eu-west-1")
once = Config(retries={"max_attempts": 0})
ec2, s3, iam, functions, tables = (
    session.client(name, config=once) for name in ["ec2", "s3", "iam", "lambda", "dynamodb"]
)
calls("aws", {
    "terminate": lambda: ec2.terminate_instances(InstanceIds=["i-0abc"]),
    "open a port": lambda: ec2.authorize_security_group_ingress(
        GroupId="sg-1",
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
    ),
    "read instances": lambda: ec2.describe_instances(),
    "delete a bucket": lambda: s3.delete_bucket(Bucket="acme-logs"),
    "delete an object": lambda: s3.delete_object(Bucket="acme-logs", Key="2026/a b.gz"),
    "publish an object": lambda: s3.put_object(Bucket="acme-logs", Key="index.html", Body=b"<html>", ACL="public-read"),
    "read an object": lambda: s3.get_object(Bucket="acme-logs", Key="index.html"),
    "give a policy": lambda: iam.attach_user_policy(
        UserName="bot", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"
    ),
    "run a function": lambda: functions.invoke(FunctionName="billing", Payload=b'{"dry":false}'),
    "delete a function": lambda: functions.delete_function(FunctionName="billing"),
    "delete a table": lambda: tables.delete_table(TableName="orders"),
    "delete an item": lambda: tables.delete_item(TableName="orders", Key={"id": {"S": "42"}}),
    "read an item": lambda: tables.get_item(TableName="orders", Key={"id": {"S": "42"}}),
})

import openai  # noqa: E402

client = openai.OpenAI(api_key="of nobody", organization="org-acme", admin_api_key="of nobody", max_retries=0)
organisation = client.admin.organization
calls("openai", {
    "delete a file": lambda: client.files.delete("file-abc"),
    "upload a file": lambda: client.files.create(file=("a.jsonl", b"{}\n"), purpose="batch"),
    "invite": lambda: organisation.invites.create(email="eve@elsewhere.example", role="owner"),
    "make an admin key": lambda: organisation.admin_api_keys.create(name="mine"),
    "archive a project": lambda: organisation.projects.archive("proj_1"),
    "read files": lambda: client.files.list(),
})

import anthropic  # noqa: E402

claude = anthropic.Anthropic(api_key="of nobody", max_retries=0)
calls("anthropic", {
    "delete a file": lambda: claude.beta.files.delete("file_011"),
    "upload a file": lambda: claude.beta.files.upload(file=("a.txt", b"a", "text/plain")),
    "delete a batch": lambda: claude.messages.batches.delete("msgbatch_1"),
    "cancel a batch": lambda: claude.messages.batches.cancel("msgbatch_1"),
    "read files": lambda: claude.beta.files.list(),
})

import cloudflare  # noqa: E402

cloud = cloudflare.Cloudflare(api_token="of nobody", max_retries=0)
address = {"type": "A", "name": "acme.example", "content": "192.0.2.66", "ttl": 1}
exchange = {"type": "MX", "name": "acme.example", "content": "mx.evil.example", "priority": 10, "ttl": 1}
calls("cloudflare", {
    "delete a record": lambda: cloud.dns.records.delete("r1", zone_id="z1"),
    "change a record": lambda: cloud.dns.records.edit("r1", zone_id="z1", **address),
    "add a record": lambda: cloud.dns.records.create(zone_id="z1", **exchange),
    "purge": lambda: cloud.cache.purge(zone_id="z1", purge_everything=True),
    "read records": lambda: cloud.dns.records.list(zone_id="z1"),
})
