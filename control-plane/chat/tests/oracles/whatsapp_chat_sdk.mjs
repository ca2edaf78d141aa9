// The Chat SDK's adapter for WhatsApp, told of each webhook whether it takes it, and what somebody said in it.
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

// It can only be imported, not required, so it is named by its file.
const packages = new URL("node_modules/", pathToFileURL(process.env.COUNTERSIGN_NODE_PACKAGES));
const { createWhatsAppAdapter } = await import(new URL("@chat-adapter/whatsapp/dist/index.js", packages));

const asked = JSON.parse(await text(process.stdin));
const quiet = { debug() {}, info() {}, warn() {}, error() {}, child: () => quiet };
const adapter = createWhatsAppAdapter({
  accessToken: "t",
  appSecret: asked.secret,
  phoneNumberId: asked.number,
  verifyToken: asked.verify,
  userName: "countersign",
  logger: quiet,
});
let taps = [];
const state = { get: async () => null, set: async () => {}, delete: async () => {} };
await adapter.initialize({
  getState: () => state,
  getLogger: () => quiet,
  getUserName: () => "countersign",
  processAction: (event) => taps.push({ id: event.actionId, user: event.raw.from_user_id, on: event.raw.context.id }),
  processMessage: () => {},
});
const answers = [];
for (const hook of asked.hooks) {
  taps = [];
  const body = hook.method === "GET" ? undefined : hook.body;
  const request = new Request(hook.url, { method: hook.method, headers: hook.headers, body });
  const response = await adapter.handleWebhook(request);
  answers.push({ status: response.status, body: await response.text(), taps });
}
process.stdout.write(JSON.stringify(answers));
