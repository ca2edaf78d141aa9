"""boto3 behind the edge: ACCESS_KEY_ID SECRET_ACCESS_KEY DEED..., one after the other; prints a list of what came of each.

Deeds: bucket, put, get, list, delete (of an S3 object), stream (an upload whose checksum follows it), run, describe, terminate (EC2),
table, item, remove (DynamoDB), presigned. It signs by a clock that is twenty minutes slow, as whoever waits for people does.
"""

import datetime
import io
import json
import sys
import urllib.error
import urllib.request

import boto3
import botocore.auth
from botocore.config import Config
from botocore.exceptions import ClientError


def slow_clock(remove_tzinfo=True):
    now = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=20)
    return now.replace(tzinfo=None) if remove_tzinfo else now


botocore.auth.get_current_datetime = slow_clock
access_key_id, secret, *deeds = sys.argv[1:]


def client(service):
    config = Config(retries={"max_attempts": 1}, read_timeout=60, s3={"addressing_style": "path"})
    return boto3.client(service, region_name="eu-central-1", aws_access_key_id=access_key_id,
                        aws_secret_access_key=secret, config=config)


s3, ec2, dynamodb = client("s3"), client("ec2"), client("dynamodb")
KEY = "a b/caf\u00e9+(1).txt"


def presigned():
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "invoices", "Key": KEY})
    try:
        urllib.request.urlopen(url)
    except urllib.error.HTTPError as why:
        return json.loads(why.read())


def instances():
    found = ec2.describe_instances()["Reservations"]
    return [[i["InstanceId"], i["State"]["Name"]] for r in found for i in r["Instances"]]


def item():
    dynamodb.put_item(TableName="t", Item={"id": {"S": "1"}})
    return dynamodb.get_item(TableName="t", Key={"id": {"S": "1"}})["Item"]


DEEDS = {
    "bucket": lambda: s3.create_bucket(
        Bucket="invoices", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})["Location"],
    "put": lambda: s3.put_object(Bucket="invoices", Key=KEY, Body=b"hello")["ETag"],
    "stream": lambda: s3.upload_fileobj(io.BytesIO(b"streamed " * 1000), "invoices", "large"),
    "get": lambda: s3.get_object(Bucket="invoices", Key=KEY)["Body"].read().decode(),
    "list": lambda: [o["Key"] for o in s3.list_objects_v2(Bucket="invoices", Prefix="a b/").get("Contents", [])],
    "delete": lambda: s3.delete_object(Bucket="invoices", Key=KEY)["ResponseMetadata"]["HTTPStatusCode"],
    "run": lambda: len(ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)["Instances"]),
    "describe": instances,
    "terminate": lambda: ec2.terminate_instances(
        InstanceIds=[instances()[0][0]])["TerminatingInstances"][0]["CurrentState"]["Name"],
    "table": lambda: dynamodb.create_table(
        TableName="t", BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}])["TableDescription"]["TableName"],
    "item": item,
    "remove": lambda: dynamodb.delete_table(TableName="t")["TableDescription"]["TableName"],
    "presigned": presigned,
}
came = []
for deed in deeds:
    try:
        came.append(DEEDS[deed]())
    except ClientError as why:
        came.append({"error": why.response["Error"], "status": why.response["ResponseMetadata"]["HTTPStatusCode"]})
print(json.dumps(came))
