"""PyJWT as a judge: PUBLIC_KEY_PEM_FILE AUDIENCE (or -) on the command line, the assertion on standard input; prints
{header, claims}. It fails where the signature, the times or the audience do not hold."""

import json
import sys

import jwt

key, audience = sys.argv[1:]
assertion = sys.stdin.read().strip()
claims = jwt.decode(
    assertion,
    open(key).read(),
    algorithms=["RS256"],
    audience=None if audience == "-" else audience,
    options={"require": ["iat", "exp", "iss"], "verify_aud": audience != "-"},
)
print(json.dumps({"header": jwt.get_unverified_header(assertion), "claims": claims}))
