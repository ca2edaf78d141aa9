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
