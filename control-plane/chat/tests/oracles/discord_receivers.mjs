// Other receivers of interactions: the vendor's verifyKey, and the Chat SDK's adapter, told of each request.
import { createRequire } from "node:module";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

const require = createRequire(process.env.COUNTERSIGN_NODE_PACKAGES);
const { verifyKey } = require("discord-interactions");
const packages = new URL("node_modules/", pathToFileURL(process.env.COUNTERSIGN_NODE_PACKAGES));
const { createDiscordAdapter } = await import(new URL("@chat-adapter/discord/dist/index.js", packages));

const asked = JSON.parse(await text(process.stdin));
const silent = { debug() {}, info() {}, warn() {}, error() {}, child: () => silent };
let taps = [];
const adapter = createDiscordAdapter({
  publicKey: asked.public_key, applicationId: asked.application, botToken: "unused", apiUrl: "http://127.0.0.1:1", logger: silent,
});
await adapter.initialize({
  processAction: (event) => taps.push({ value: event.value, user: event.user.userId, message: event.messageId }),
});
const answers = [];
for (const hook of asked.hooks) {
  taps = [];
  const { "x-signature-ed25519": signature, "x-signature-timestamp": at } = hook.headers;
  const verified = await verifyKey(hook.body, signature, at, asked.public_key);
  const request = new Request("http://127.0.0.1/", { method: "POST", headers: hook.headers, body: hook.body });
  const response = await adapter.handleWebhook(request);
  answers.push({ verified, status: response.status, answer: await response.json().catch(() => null), taps });
}
process.stdout.write(JSON.stringify(answers));
