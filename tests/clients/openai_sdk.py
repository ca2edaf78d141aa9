"""The official OpenAI SDK behind the edge: lists models, streams an answer, then deletes a file; prints what each gave."""

import json
import sys

import openai

client = openai.OpenAI(api_key=sys.argv[1], max_retries=0)
said = {"models": [model.id for model in client.models.list()]}
stream = client.chat.completions.create(
    model="gpt-test", messages=[{"role": "user", "content": "say hello"}], stream=True
)
said["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
try:
    said["deleted"] = client.files.delete("file-doomed").deleted
except openai.APIStatusError as error:
    said["refused"] = {"status": error.status_code, "body": error.response.text}
print(json.dumps(said))
