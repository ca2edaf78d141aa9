// Another receiver: the Chat SDK's adapter, with Google's keys put where it would have fetched them to.
import { createPublicKey } from "node:crypto";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

const packages = pathToFileURL(process.env.COUNTERSIGN_NODE_PACKAGES);
const { createGoogleChatAdapter } = await import(new URL("node_modules/@chat-adapter/gchat/dist/index.js", packages));

const asked = JSON.parse(await text(process.stdin));
const logger = { debug() {}, info() {}, warn() {}, error() {}, child: () => logger };
const credentials = { client_email: "a@b.example", private_key: asked.pem };
const audience = asked.project ? { googleChatProjectNumber: asked.project } : { endpointUrl: asked.url };
const adapter = createGoogleChatAdapter({ credentials, logger, ...audience });
const certificates = Object.fromEntries(
  asked.keys.map((key) => [key.kid, createPublicKey({ key, format: "jwk" }).export({ type: "spki", format: "pem" })]));
adapter.chatIssuerCerts = { certs: certificates, fetchedAt: Date.now() };
adapter.oauth2Client.getFederatedSignonCertsAsync = async () => ({ certs: certificates, format: "PEM" });
const answers = [];
for (const hook of asked.hooks) {
  const headers = { "content-type": "application/json", authorization: hook.authorization };
  const request = new Request(asked.url, { method: "POST", headers, body: hook.body });
  answers.push((await adapter.handleWebhook(request)).status);
}
process.stdout.write(JSON.stringify(answers));
