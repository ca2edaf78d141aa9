"""The official Anthropic SDK behind the edge: lists models, streams an answer, then deletes a file; prints what each gave."""

import json
import sys

import anthropic

client = anthropic.Anthropic(api_key=sys.argv[1], max_retries=0)
said = {"models": [model.id for model in client.models.list()]}
with client.messages.stream(
    model="claude-test", max_tokens=16, messages=[{"role": "user", "content": "say hello"}]
) as stream:
    said["streamed"] = "".join(stream.text_stream)
try:
    said["deleted"] = client.beta.files.delete("file_doomed").id
except anthropic.APIStatusError as error:
    said["refused"] = {"status": error.status_code, "body": error.response.text}
print(json.dumps(said))
