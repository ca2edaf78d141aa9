// An MCP server by the official SDK, over streamable HTTP behind TLS: CERTIFICATE KEY AUTHORIZATION. Prints its port, and then
// every tool that was called, a line of JSON each. Whoever brings another Authorization gets 401.
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { z } from "zod";

const [certificate, key, authorization] = process.argv.slice(2);
const say = (what) => console.log(JSON.stringify(what));

function tools() {
  const server = new McpServer({ name: "orders", version: "1.0.0" });
  const tool = (name, description, inputSchema) =>
    server.registerTool(name, { description, inputSchema }, async (given) => {
      say({ called: name, given });
      return { content: [{ type: "text", text: `${name} is done` }] };
    });
  tool("look_up", "Finds an order.", { order: z.string() });
  tool("drop_table", "Drops a table.", { table: z.string(), cascade: z.boolean().optional() });
  return server;
}

const front = createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, async (request, response) => {
  if (request.headers.authorization !== authorization) return response.writeHead(401).end();
  if (request.method !== "POST") return response.writeHead(405, { allow: "POST" }).end();
  const server = tools();
  const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
  response.on("close", () => server.close());
  await server.connect(transport);
  await transport.handleRequest(request, response);
});
front.listen(0, "127.0.0.1", () => say({ port: front.address().port }));
