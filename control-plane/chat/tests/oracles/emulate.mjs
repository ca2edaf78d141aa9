// A whole platform, emulated by others: emulate, with a receiver for its webhooks. A line of JSON is asked and answered.
import { randomUUID } from "node:crypto";
import http from "node:http";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const packages = pathToFileURL(process.env.COUNTERSIGN_NODE_PACKAGES);
const { createEmulator } = await import(new URL("node_modules/emulate/dist/api.js", packages));

const listening = (server) => new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server.address().port)));
const free = http.createServer();
const port = await listening(free);
await new Promise((resolve) => free.close(resolve));

const delivered = [];
const receiver = http.createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  delivered.push({ headers: request.headers, body: Buffer.concat(chunks).toString("utf8") });
  response.end();
});
const hook = `http://127.0.0.1:${await listening(receiver)}/${randomUUID()}`;

const lines = createInterface({ input: process.stdin });
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
let emulator;
for await (const line of lines) {
  const asked = JSON.parse(line);
  if (asked.start) {
    emulator = await createEmulator({ service: asked.start, port, seed: asked.seed });
    say({ url: `http://127.0.0.1:${port}`, hook });
  } else if (asked.call) {
    const { method, url, headers, body } = asked.call;
    const response = await fetch(url, { method, headers, body: method === "GET" ? undefined : body });
    say({ status: response.status, body: await response.text() });
  } else {
    for (let tries = 0; delivered.length < asked.deliveries && tries < 200; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    say(delivered);
  }
}
await emulator?.close();
receiver.close();
receiver.closeAllConnections();
process.exit(0);
