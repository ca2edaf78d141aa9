"""The official Slack SDK behind the edge: lists channels, then deletes a message; prints what each gave."""

import json
import sys

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

client = WebClient(token=sys.argv[1], timeout=60)
said = {"channels": [channel["name"] for channel in client.conversations_list()["channels"]]}
try:
    said["deleted"] = client.chat_delete(channel="C0100", ts="1700000000.000100")["ts"]
except SlackApiError as error:
    said["refused"] = {"status": error.response.status_code, "body": str(error.response.data)}
print(json.dumps(said))
