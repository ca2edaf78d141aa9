// Vercel's emulation of Resend: takes the mails that it is sent, and shows what has arrived.
import http from "node:http";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

// It can only be imported, not required, so it is named by its file.
const packages = new URL("node_modules/", pathToFileURL(process.env.COUNTERSIGN_NODE_PACKAGES));
const { createEmulator } = await import(new URL("emulate/dist/api.js", packages));

const asked = JSON.parse(await text(process.stdin));
const free = http.createServer();
const port = await new Promise((resolve) => free.listen(0, "127.0.0.1", () => resolve(free.address().port)));
await new Promise((resolve) => free.close(resolve));
const emulator = await createEmulator({ service: "resend", port });
const call = async (path, options) => {
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, options);
  return { status: answer.status, body: await answer.json() };
};
const answers = [];
for (const mail of asked.mails) {
  answers.push(await call(mail.path, { method: "POST", headers: mail.headers, body: mail.body }));
}
const { authorization } = asked.mails[0].headers;
const arrived = await call("/emails", { headers: { authorization } });
const mails = [];
for (const { id } of arrived.body.data) mails.push((await call(`/emails/${id}`, { headers: { authorization } })).body);
await emulator.close();
process.stdout.write(JSON.stringify({ answers, mails }));
