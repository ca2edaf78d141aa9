// The vendor's own receiver: bolt, told of each request whether it takes it.
import { createHmac } from "node:crypto";
import { createRequire } from "node:module";
import http from "node:http";
import { text } from "node:stream/consumers";

const require = createRequire(process.env.COUNTERSIGN_NODE_PACKAGES);
const { App, HTTPReceiver, LogLevel } = require("@slack/bolt");

const asked = JSON.parse(await text(process.stdin));
const receiver = new HTTPReceiver({ signingSecret: asked.secret, endpoints: ["/"], port: 0, logLevel: LogLevel.ERROR });
const app = new App({ receiver, authorize: async () => ({ botToken: "xoxb-1", botId: "B1", botUserId: "U9" }) });
let taps = [];
app.action(/.*/, async ({ ack, action, body }) => {
  taps.push({ value: action.value, user: body.user.id });
  await ack();
});
const server = await receiver.start(0);
const { port } = server.address();
const answers = [];
for (const hook of asked.hooks) {
  taps = [];
  const status = await new Promise((resolve, reject) => {
    const request = http.request({ port, host: "127.0.0.1", method: "POST", path: "/", headers: hook.headers }, (response) => {
      response.resume();
      response.on("end", () => resolve(response.statusCode));
    });
    request.on("error", reject);
    request.end(hook.body);
  });
  answers.push({ status, taps });
}
await receiver.stop();
process.stdout.write(JSON.stringify(answers));
