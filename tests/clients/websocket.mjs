// A WebSocket (undici) behind the edge: URL AUTHORIZATION; what it hears decides what it says next. Prints {opened, heard, code,
// reason} as JSON.
import { ProxyAgent, WebSocket } from "undici";
import { readFileSync } from "node:fs";

const [url, authorization] = process.argv.slice(2);
const proxy = new URL(process.env.HTTPS_PROXY);
const token = `Basic ${Buffer.from(`${proxy.username}:${proxy.password}`).toString("base64")}`;
const ca = readFileSync(process.env.SSL_CERT_FILE);
const dispatcher = new ProxyAgent({ uri: `http://${proxy.host}`, token, requestTls: { ca } });
const socket = new WebSocket(url, { protocols: ["chess", "chat"], headers: { authorization }, dispatcher });
socket.binaryType = "arraybuffer";
const said = { opened: false, heard: [] };
socket.onopen = () => {
  said.opened = true;
  said.protocol = socket.protocol;
  socket.send("hello");
};
socket.onmessage = ({ data }) => {
  said.heard.push(typeof data === "string" ? data : { bytes: data.byteLength, last: new Uint8Array(data).at(-1) });
  if (said.heard.length === 1) socket.send(new Uint8Array(100_000).fill(7));
  if (said.heard.length === 2) socket.send("leak");
  if (said.heard.length === 3) socket.close(4321, "enough");
};
socket.onerror = ({ message }) => (said.error = message ?? "error");
socket.onclose = ({ code, reason }) => {
  console.log(JSON.stringify({ ...said, code, reason }));
  process.exit(0);
};
