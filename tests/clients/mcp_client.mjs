// An MCP client by the official SDK behind the edge: URL AUTHORIZATION STEPS. A step is a list of calls, [tool, arguments] each;
// of several it makes one batch. Prints the tools that there are, and what came of each step, a line of JSON each.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { readFileSync } from "node:fs";
import { ProxyAgent, fetch as undici } from "undici";

const [url, authorization, steps] = process.argv.slice(2);
const proxy = new URL(process.env.HTTPS_PROXY);
const token = `Basic ${Buffer.from(`${proxy.username}:${proxy.password}`).toString("base64")}`;
const ca = readFileSync(process.env.SSL_CERT_FILE);
const dispatcher = new ProxyAgent({ uri: `http://${proxy.host}`, token, requestTls: { ca } });
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { authorization } },
  fetch: (target, options) => undici(target, { ...options, dispatcher }),
});
const client = new Client({ name: "robot", version: "1.0.0" });
const say = (what) => console.log(JSON.stringify(what));
const told = (error) => ({ error: { name: error.constructor.name, code: error.code, message: error.message } });

await client.connect(transport);
say((await client.listTools()).tools.map(({ name }) => name));
for (const calls of JSON.parse(steps)) {
  try {
    if (calls.length === 1) {
      const [name, given] = calls[0];
      say((await client.callTool({ name, arguments: given })).content[0].text);
    } else {
      const batch = calls.map(([name, given], at) => ({
        jsonrpc: "2.0", id: 1000 + at, method: "tools/call", params: { name, arguments: given },
      }));
      await transport.send(batch);
      say("sent");
    }
  } catch (error) {
    say(told(error));
  }
}
await client.close();
process.exit(0);
