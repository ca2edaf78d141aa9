// The official GitHub SDK behind the edge: reads a repository, then deletes one; prints what each call gave.
import { Octokit } from "@octokit/rest";
import { ProxyAgent, fetch as undici } from "undici";
import { readFileSync } from "node:fs";

const [auth, owner, read, remove] = process.argv.slice(2);
const proxy = new URL(process.env.HTTPS_PROXY);
const token = `Basic ${Buffer.from(`${proxy.username}:${proxy.password}`).toString("base64")}`;
const dispatcher = new ProxyAgent({ uri: `http://${proxy.host}`, token, requestTls: { ca: readFileSync(process.env.SSL_CERT_FILE) } });
const octokit = new Octokit({ auth, request: { fetch: (url, options) => undici(url, { ...options, dispatcher }) } });
const said = {};
said.read = (await octokit.rest.repos.get({ owner, repo: read })).data.full_name;
try {
  said.removed = (await octokit.rest.repos.delete({ owner, repo: remove })).status;
} catch (error) {
  said.refused = { status: error.status, code: error.response?.data?.code };
}
console.log(JSON.stringify(said));
