// Another receiver of updates: the Chat SDK's adapter, told of each request; its calls go to a server that says yes.
import { createRequire } from "node:module";
import http from "node:http";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

const packages = new URL("node_modules/", pathToFileURL(process.env.COUNTERSIGN_NODE_PACKAGES));
const { createTelegramAdapter } = await import(new URL("@chat-adapter/telegram/dist/index.js", packages));

const asked = JSON.parse(await text(process.stdin));
const silent = { debug() {}, info() {}, warn() {}, error() {}, child: () => silent };
const server = http.createServer((request, response) => {
  request.resume();
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ ok: true, result: { id: asked.bot, is_bot: true, first_name: "b", username: "b" } }));
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
let taps = [];
const adapter = createTelegramAdapter({
  apiUrl: `http://127.0.0.1:${server.address().port}`, botToken: asked.bot_token, logger: silent, mode: "webhook", secretToken: asked.secret,
});
const seen = new Set();
await adapter.initialize({
  getState: () => ({ setIfNotExists: async (key) => !seen.has(key) && !!seen.add(key) }),
  processAction: async (event) => { taps.push({ user: event.user.userId, message: event.messageId, value: event.value }); },
});
const answers = [];
for (const hook of asked.hooks) {
  taps = [];
  const waits = [];
  const request = new Request("http://127.0.0.1/", { method: "POST", headers: hook.headers, body: hook.body });
  const response = await adapter.handleWebhook(request, { waitUntil: (task) => waits.push(task) });
  await Promise.all(waits);
  answers.push({ status: response.status, taps });
}
server.close();
server.closeAllConnections();
process.stdout.write(JSON.stringify(answers));
