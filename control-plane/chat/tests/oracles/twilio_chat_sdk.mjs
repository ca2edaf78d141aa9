// The Chat SDK's adapter for Twilio, told of each webhook whether it takes it, and what somebody wrote in it.
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

// It can only be imported, not required, so it is named by its file.
const packages = new URL("node_modules/", pathToFileURL(process.env.COUNTERSIGN_NODE_PACKAGES));
const { createTwilioAdapter } = await import(new URL("@chat-adapter/twilio/dist/index.js", packages));

const asked = JSON.parse(await text(process.stdin));
const quiet = { debug() {}, info() {}, warn() {}, error() {}, child: () => quiet };
const adapter = createTwilioAdapter({
  accountSid: asked.account,
  authToken: asked.secret,
  phoneNumber: asked.number,
  webhookUrl: asked.address,
  logger: quiet,
});
let written = [];
await adapter.initialize({ processMessage: (_adapter, _thread, message) => written.push({ text: message.text, by: message.author.userId }) });
const answers = [];
for (const hook of asked.hooks) {
  written = [];
  const response = await adapter.handleWebhook(new Request(hook.url, { method: "POST", headers: hook.headers, body: hook.body }));
  answers.push({ status: response.status, written });
}
process.stdout.write(JSON.stringify(answers));
