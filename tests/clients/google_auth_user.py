"""google-auth behind the edge, as it does for a user: TOKEN_URI URL CLIENT_ID SECRET. It asks TOKEN_URI for a token with
SECRET for both its refresh token and its client's secret, then gets URL with it; prints {token, status, body}."""

import json
import sys

from google.auth.transport.requests import AuthorizedSession
from google.oauth2.credentials import Credentials

token_uri, url, client_id, secret = sys.argv[1:]
credentials = Credentials(None, refresh_token=secret, token_uri=token_uri, client_id=client_id, client_secret=secret)
answer = AuthorizedSession(credentials).get(url)
print(json.dumps({"token": credentials.token, "status": answer.status_code, "body": answer.text}))
