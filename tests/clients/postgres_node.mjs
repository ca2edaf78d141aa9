// node-postgres: postgres_node.mjs URL TEXT VALUE… runs one statement, and prints what came of it as JSON.

import { readFileSync } from "node:fs";
import pg from "pg";

const [url, text, ...values] = process.argv.slice(2);
const parsed = new URL(url);
const ca = readFileSync(parsed.searchParams.get("sslrootcert"), "utf8");
parsed.search = "";
const client = new pg.Client({ connectionString: parsed.toString(), ssl: { ca } });
await client.connect();
try {
  const named = await client.query({ name: "kept", text, values });
  const again = await client.query({ name: "kept", text, values });
  console.log(JSON.stringify({ rows: named.rows, again: again.rows, command: named.command }));
} catch (error) {
  console.log(JSON.stringify({ code: error.code, detail: error.detail }));
}
await client.end();
