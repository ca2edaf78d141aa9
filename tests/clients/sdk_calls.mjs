// What official SDKs for JavaScript send: PORT. Each call is made as its documentation has it; every connection, whatever its
// host, goes to that port of this machine, and after each call its name is fetched from marker.example.test. What the SDKs make of
// the answers does not matter.
import net from "node:net";

const port = Number(process.argv[2]);
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (first, ...rest) {
  const [options, ...given] = Array.isArray(first) ? first : [first, ...rest];
  return connect.call(this, { ...options, host: "127.0.0.1", port, lookup: undefined }, ...given.filter(Boolean));
};

async function calls(service, each) {
  for (const [name, call] of Object.entries(each)) {
    try {
      await call();
    } catch (error) {
      if (process.env.LOUD) console.error(`${service}: ${name}:`, error.message);
    }
    await fetch(`https://marker.example.test/${encodeURIComponent(`${service}: ${name}`)}`);
  }
}

const { Octokit } = await import("@octokit/rest");
const hub = new Octokit({ auth: "of nobody", log: { debug() {}, info() {}, warn() {}, error() {} } });
const repo = { owner: "acme", repo: "prod" };
await calls("github", {
  "delete a repository": () => hub.rest.repos.delete(repo),
  "force a branch": () => hub.rest.git.updateRef({ ...repo, ref: "heads/main", sha: "a".repeat(40), force: true }),
  "delete a file": () => hub.rest.repos.deleteFile({ ...repo, path: "src/main.rs", message: "drop it", sha: "3d21ec5", branch: "main" }),
  merge: () => hub.rest.pulls.merge({ ...repo, pull_number: 7, merge_method: "squash" }),
  "add a collaborator": () => hub.rest.repos.addCollaborator({ ...repo, username: "mallory", permission: "admin" }),
  "run a workflow": () => hub.rest.actions.createWorkflowDispatch({ ...repo, workflow_id: "deploy.yml", ref: "main" }),
  comment: () => hub.rest.issues.createComment({ ...repo, issue_number: 7, body: "Done." }),
  "read a repository": () => hub.rest.repos.get(repo),
  mutation: () => hub.graphql("mutation($ref: ID!) { deleteRef(input: {refId: $ref}) { clientMutationId } }", { ref: "REF_1" }),
  query: () => hub.graphql("{ viewer { login } }"),
});

const { Gitlab } = await import("@gitbeaker/rest");
const lab = new Gitlab({ token: "of nobody" });
await calls("gitlab", {
  "delete a project": () => lab.Projects.remove("acme/prod"),
  "make a project public": () => lab.Projects.edit(42, { visibility: "public" }),
  unprotect: () => lab.ProtectedBranches.unprotect(42, "main"),
  "add a member": () => lab.ProjectMembers.add(42, 50, { userId: 7 }),
  "run a pipeline": () => lab.Pipelines.create(42, "main", { variables: [{ key: "DEPLOY", value: "1" }] }),
  merge: () => lab.MergeRequests.merge(42, 7, { squash: true }),
  "read a project": () => lab.Projects.show(42),
});

const { WebClient, LogLevel } = await import("@slack/web-api");
const slack = new WebClient("xoxb-of-nobody", { logLevel: LogLevel.ERROR, retryConfig: { retries: 0 } });
await calls("slack", {
  post: () => slack.chat.postMessage({ channel: "C0PROD", text: "The site is down" }),
  "post with blocks": () => slack.chat.postMessage({
    channel: "C0PROD", text: "All is well", blocks: [{ type: "section", text: { type: "mrkdwn", text: "<!channel> leave" } }],
  }),
  "delete a message": () => slack.chat.delete({ channel: "C0PROD", ts: "17.42" }),
  archive: () => slack.conversations.archive({ channel: "C0PROD" }),
  invite: () => slack.conversations.invite({ channel: "C0PROD", users: "U1,U2" }),
  "read a channel": () => slack.conversations.history({ channel: "C0PROD" }),
});

const { auth, calendar } = await import("@googleapis/calendar");
const person = new auth.OAuth2();
person.setCredentials({ access_token: "of nobody", expiry_date: Date.now() + 3_600_000 });
const days = calendar({ version: "v3", auth: person, retry: false });
await calls("calendar", {
  "make an event": () => days.events.insert({
    calendarId: "primary", sendUpdates: "all",
    requestBody: {
      summary: "Board meeting", start: { dateTime: "2026-12-01T10:00:00Z" }, end: { dateTime: "2026-12-01T11:00:00Z" },
      attendees: [{ email: "ana@example.com" }, { email: "ben@example.com", optional: true }],
    },
  }),
  "delete an event": () => days.events.delete({ calendarId: "primary", eventId: "ev1" }),
  share: () => days.acl.insert({
    calendarId: "primary", requestBody: { role: "owner", scope: { type: "user", value: "eve@elsewhere.example" } },
  }),
  clear: () => days.calendars.clear({ calendarId: "primary" }),
  "read events": () => days.events.list({ calendarId: "primary" }),
});

const { gmail } = await import("@googleapis/gmail");
const mails = gmail({ version: "v1", auth: person, retry: false });
const letter = "From: bot@example.com\r\nTo: ana@example.com\r\nBcc: eve@elsewhere.example\r\nSubject: Numbers\r\n\r\nAttached.\r\n";
const raw = Buffer.from(letter).toString("base64url");
await calls("gmail", {
  send: () => mails.users.messages.send({ userId: "me", requestBody: { raw } }),
  "send as an upload": () => mails.users.messages.send({ userId: "me", requestBody: {}, media: { mimeType: "message/rfc822", body: letter } }),
  draft: () => mails.users.drafts.create({ userId: "me", requestBody: { message: { raw } } }),
  "delete mails": () => mails.users.messages.batchDelete({ userId: "me", requestBody: { ids: ["m1", "m2"] } }),
  forward: () => mails.users.settings.updateAutoForwarding({
    userId: "me", requestBody: { enabled: true, emailAddress: "eve@elsewhere.example", disposition: "trash" },
  }),
  "read a mail": () => mails.users.messages.get({ userId: "me", id: "m1" }),
});

const { drive } = await import("@googleapis/drive");
const files = drive({ version: "v3", auth: person, retry: false });
await calls("drive", {
  "delete a file": () => files.files.delete({ fileId: "f1", supportsAllDrives: true }),
  "share with anyone": () => files.permissions.create({
    fileId: "f1", sendNotificationEmail: false, requestBody: { type: "anyone", role: "reader" },
  }),
  share: () => files.permissions.create({
    fileId: "f1", requestBody: { type: "user", role: "writer", emailAddress: "eve@elsewhere.example" },
  }),
  trash: () => files.files.update({ fileId: "f1", requestBody: { trashed: true } }),
  "empty the trash": () => files.files.emptyTrash({}),
  upload: () => files.files.create({ requestBody: { name: "a.txt" }, media: { mimeType: "text/plain", body: "a" } }),
  "read a file": () => files.files.get({ fileId: "f1" }),
});

const { LinearClient } = await import("@linear/sdk");
const linear = new LinearClient({ apiKey: "of nobody" });
await calls("linear", {
  "delete an issue": () => linear.deleteIssue("ENG-7"),
  "make an issue": () => linear.createIssue({ teamId: "team-1", title: "It is broken" }),
  comment: () => linear.createComment({ issueId: "ENG-7", body: "Done." }),
  "read issues": () => linear.issues({ first: 3 }),
});

const { Client: Notion } = await import("@notionhq/client");
const notion = new Notion({ auth: "of nobody", logger() {} });
await calls("notion", {
  "trash a page": () => notion.pages.update({ page_id: "p1", in_trash: true }),
  "make a page": () => notion.pages.create({
    parent: { page_id: "p1" }, properties: { title: { title: [{ text: { content: "Plan" } }] } },
  }),
  "trash a block": () => notion.blocks.delete({ block_id: "b1" }),
  comment: () => notion.comments.create({ parent: { page_id: "p1" }, rich_text: [{ text: { content: "Done." } }] }),
  "read a page": () => notion.pages.retrieve({ page_id: "p1" }),
});

const { Vercel } = await import("@vercel/sdk");
const vercel = new Vercel({ bearerToken: "of nobody" });
await calls("vercel", {
  "delete a project": () => vercel.projects.deleteProject({ idOrName: "shop", teamId: "team_1" }),
  deploy: () => vercel.deployments.createDeployment({
    requestBody: { name: "shop", target: "production", gitSource: { type: "github", repo: "shop", ref: "main", org: "acme" } },
  }),
  "set a variable": () => vercel.projects.createProjectEnv({
    idOrName: "shop", requestBody: { key: "DB", value: "postgres://x", type: "encrypted", target: ["production"] },
  }),
  "read variables": () => vercel.projects.filterProjectEnvs({ idOrName: "shop" }),
});

process.exit(0);
