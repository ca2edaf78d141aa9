// How GitHub, Linear and Notion sign: HMAC-SHA256 over the raw body, by Node's crypto.
import { createHmac } from "node:crypto";
import { text } from "node:stream/consumers";

const asked = JSON.parse(await text(process.stdin));
const signature = createHmac("sha256", asked.secret).update(asked.body).digest("hex");
process.stdout.write(JSON.stringify({ signature }));
