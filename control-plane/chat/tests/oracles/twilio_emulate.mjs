// Vercel's emulation of Twilio: sends what it is asked to, and then has somebody write back.
import http from "node:http";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

// It can only be imported, not required, so it is named by its file.
const packages = new URL("node_modules/", pathToFileURL(process.env.COUNTERSIGN_NODE_PACKAGES));
const { createEmulator } = await import(new URL("emulate/dist/api.js", packages));

const asked = JSON.parse(await text(process.stdin));
const listening = (server) => new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server.address().port)));
let heard;
const receiver = http.createServer(async (request, response) => {
  heard = { headers: request.headers, body: await text(request) };
  response.end();
});
const address = `http://127.0.0.1:${await listening(receiver)}/hooks/c`;
const free = http.createServer();
const port = await listening(free);
await new Promise((resolve) => free.close(resolve));
const seed = {
  twilio: {
    account: { sid: asked.account, auth_token: asked.secret },
    phone_numbers: [{ phone_number: asked.number, sms_url: address, sms_method: "POST" }],
  },
};
const emulator = await createEmulator({ service: "twilio", port, seed });
const authorization = (secret) => `Basic ${Buffer.from(`${asked.account}:${secret}`).toString("base64")}`;
const post = async (path, body, secret) => {
  const headers = { "content-type": "application/x-www-form-urlencoded", authorization: authorization(secret) };
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, { method: "POST", headers, body });
  return { status: answer.status, body: await answer.json() };
};
const sent = await post(asked.path, asked.body, asked.secret);
const refused = await post(asked.path, asked.body, "another");
await post("/_twilio/simulate/inbound-message", new URLSearchParams({ To: asked.number, From: asked.person, Body: asked.words }).toString(), asked.secret);
await emulator.close();
receiver.close();
process.stdout.write(JSON.stringify({ sent, refused, heard, address }));
