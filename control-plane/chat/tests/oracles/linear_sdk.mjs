// Another receiver: the Chat SDK's adapter for Linear, which asks the vendor's own SDK to verify.
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

const packages = pathToFileURL(process.env.COUNTERSIGN_NODE_PACKAGES);
const { createLinearAdapter } = await import(new URL("node_modules/@chat-adapter/linear/dist/index.js", packages));

const asked = JSON.parse(await text(process.stdin));
const logger = { debug() {}, info() {}, warn() {}, error() {}, child: () => logger };
const adapter = createLinearAdapter({ apiKey: "k", userName: "countersign", webhookSecret: asked.secret, logger });
const answers = [];
for (const { headers, body } of asked.hooks) {
  const request = new Request("https://hooks.example/", { method: "POST", headers, body });
  answers.push((await adapter.handleWebhook(request)).status);
}
process.stdout.write(JSON.stringify(answers));
