// Node's fetch (undici) behind the edge: METHOD URL AUTHORIZATION [BODY]; prints {status, body}.
import { ProxyAgent, fetch } from "undici";
import { readFileSync } from "node:fs";

const [method, url, authorization, body] = process.argv.slice(2);
const proxy = new URL(process.env.HTTPS_PROXY);
const token = `Basic ${Buffer.from(`${proxy.username}:${proxy.password}`).toString("base64")}`;
const ca = readFileSync(process.env.SSL_CERT_FILE);
const dispatcher = new ProxyAgent({ uri: `http://${proxy.host}`, token, requestTls: { ca, allowH2: process.env.H2 === "1" } });
const response = await fetch(url, { method, headers: { authorization }, body, dispatcher });
console.log(JSON.stringify({ status: response.status, body: await response.text() }));
