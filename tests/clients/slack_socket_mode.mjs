// Slack's own client: it connects, writes down what it is told, and acknowledges each envelope.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { SocketModeClient, LogLevel } = require("@slack/socket-mode");

const [base, appToken] = process.argv.slice(2);
const client = new SocketModeClient({
  appToken,
  logLevel: LogLevel.ERROR,
  clientOptions: { slackApiUrl: `${base}/` },
});
client.on("slack_event", async ({ ack, type, body, envelope_id }) => {
  await ack();
  console.log(JSON.stringify({ type, body, envelope_id }));
});
await client.start();
