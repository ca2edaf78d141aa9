"""RSA keys by cryptography and JSON Web Tokens by PyJWT: makes a pair, signs claims, or reads what we signed."""
import json
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from jwt.algorithms import RSAAlgorithm

asked = json.load(sys.stdin)
if "make" in asked:
    pairs = []
    for _ in range(asked["make"]):
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        pairs.append({"pem": pem, "key": json.loads(RSAAlgorithm.to_jwk(private.public_key()))})
    json.dump(pairs, sys.stdout)
elif "claims" in asked:
    token = jwt.encode(asked["claims"], asked["pem"], algorithm=asked.get("algorithm", "RS256"), headers={"kid": asked["kid"]})
    json.dump({"token": token}, sys.stdout)
else:
    public = load_pem_private_key(asked["pem"].encode(), None).public_key()
    options = {"verify_exp": False, "verify_iat": False, "require": ["iss", "aud", "iat", "exp"]}
    claims = jwt.decode(asked["token"], public, algorithms=["RS256"], audience=asked["audience"], options=options)
    json.dump({"claims": claims, "header": jwt.get_unverified_header(asked["token"])}, sys.stdout)
