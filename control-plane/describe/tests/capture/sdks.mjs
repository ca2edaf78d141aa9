// What official SDKs for JavaScript would send, written to tests/requests: run with tests/node_modules of the repository, as
// `node sdks.mjs`. Nothing leaves the machine: their fetch is replaced. Keys are not kept.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const tests = new URL("../../../../tests/", import.meta.url);
const require = createRequire(tests);
const version = (name) =>
  JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, tests), "utf8")).version;

let made;
async function record(input, init = {}) {
  const headers = new Headers(init.headers);
  const type = headers.get("content-type");
  made = {
    method: init.method ?? "GET",
    url: String(input),
    headers: type ? { "content-type": type } : {},
    body: init.body ? String(init.body) : "",
  };
  return new Response('{"data":{}}', { headers: { "content-type": "application/json" } });
}

async function calls(library, file, each) {
  const requests = [];
  for (const [name, call] of each) {
    made = undefined;
    await Promise.resolve().then(call).catch(() => {});
    if (!made) throw new Error(`${library}: ${name} sent nothing`);
    requests.push({ name, ...made });
  }
  const captured_by = `capture/sdks.mjs, ${library} ${version(library)}`;
  const out = new URL(`../requests/${file}.json`, import.meta.url);
  writeFileSync(out, JSON.stringify({ captured_by, requests }, null, 1) + "\n");
}

const { Octokit } = await import(require.resolve("@octokit/rest"));
const hub = new Octokit({ auth: "of nobody", request: { fetch: record } });
const repo = { owner: "acme", repo: "prod" };
await calls("@octokit/rest", "octokit", [
  ["delete a repository", () => hub.rest.repos.delete(repo)],
  ["force a branch", () => hub.rest.git.updateRef({ ...repo, ref: "heads/main", sha: "a".repeat(40), force: true })],
  ["delete a branch", () => hub.rest.git.deleteRef({ ...repo, ref: "heads/feature/x" })],
  ["merge", () => hub.rest.pulls.merge({ ...repo, pull_number: 7, merge_method: "squash" })],
  ["run a workflow", () => hub.rest.actions.createWorkflowDispatch({ ...repo, workflow_id: "deploy.yml", ref: "main", inputs: { to: "production" } })],
  ["transfer", () => hub.rest.repos.transfer({ ...repo, new_owner: "mallory" })],
  ["set a secret", () => hub.rest.actions.createOrUpdateRepoSecret({ ...repo, secret_name: "TOKEN", encrypted_value: "AAAA", key_id: "1" })],
  ["remove protection", () => hub.rest.repos.deleteBranchProtection({ ...repo, branch: "main" })],
  ["comment", () => hub.rest.issues.createComment({ ...repo, issue_number: 7, body: "Done.\nMerged." })],
  ["read a repository", () => hub.rest.repos.get(repo)],
  ["mutation", () => hub.graphql("mutation($ref: ID!) { deleteRef(input: {refId: $ref}) { clientMutationId } }", { ref: "REF_1" })],
  ["query", () => hub.graphql("{ viewer { login } }")],
]);

globalThis.fetch = record;
const { LinearClient } = require("@linear/sdk");
const linear = new LinearClient({ apiKey: "of nobody" });
await calls("@linear/sdk", "linear", [
  ["delete an issue", () => linear.deleteIssue("ENG-7")],
  ["create an issue", () => linear.createIssue({ teamId: "team-1", title: "It is broken" })],
  ["comment", () => linear.createComment({ issueId: "ENG-7", body: "Done." })],
  ["read issues", () => linear.issues({ first: 3 })],
]);

// The MCP client asks for answers before it goes on, so this server has some.
const { Client } = await import(require.resolve("@modelcontextprotocol/sdk/client/index.js"));
const { StreamableHTTPClientTransport } = await import(require.resolve("@modelcontextprotocol/sdk/client/streamableHttp.js"));
const said = [];
async function server(input, init = {}) {
  if (init.method !== "POST") return new Response(null, { status: 405 });
  await record(input, init);
  said.push(made);
  const message = JSON.parse(made.body);
  if (Array.isArray(message) || message.id === undefined) return new Response(null, { status: 202 });
  const results = {
    initialize: { protocolVersion: message.params?.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: "s", version: "1" } },
    "tools/list": { tools: [{ name: "delete_user", inputSchema: { type: "object" } }] },
    "tools/call": { content: [] },
  };
  const answer = { jsonrpc: "2.0", id: message.id, result: results[message.method] ?? {} };
  return new Response(JSON.stringify(answer), { headers: { "content-type": "application/json" } });
}
const transport = new StreamableHTTPClientTransport(new URL("https://mcp.example.com/mcp"), { fetch: server });
const client = new Client({ name: "agent", version: "1" });
await client.connect(transport);
await client.listTools();
await client.callTool({ name: "read_user", arguments: { user: "ana" } });
await client.callTool({ name: "delete_user", arguments: { user: "ana", hard: true } });
await transport.send([
  { jsonrpc: "2.0", id: 90, method: "tools/list" },
  { jsonrpc: "2.0", id: 91, method: "tools/call", params: { name: "delete_user", arguments: { user: "ben" } } },
]);
await client.close();
const names = ["initialize", "initialized", "list", "read a user", "delete a user", "a batch"];
await calls("@modelcontextprotocol/sdk", "mcp", names.map((name, at) => [name, () => { made = said[at]; }]));
