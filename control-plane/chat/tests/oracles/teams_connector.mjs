// The vendor's own validator: botframework-connector, with the key set of a metadata document that is served here.
import { createRequire } from "node:module";
import http from "node:http";
import { text } from "node:stream/consumers";

const require = createRequire(process.env.COUNTERSIGN_NODE_PACKAGES);
const { AuthenticationConfiguration, ChannelValidation, SimpleCredentialProvider } = require("botframework-connector");

const asked = JSON.parse(await text(process.stdin));
const server = http.createServer((request, response) => {
  const { port } = server.address();
  const document = request.url === "/keys" ? { keys: asked.keys } : { jwks_uri: `http://127.0.0.1:${port}/keys` };
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(document));
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
ChannelValidation.OpenIdMetadataEndpoint = `http://127.0.0.1:${server.address().port}/`;
const credentials = new SimpleCredentialProvider(asked.app, "");
const answers = [];
for (const hook of asked.hooks) {
  const activity = JSON.parse(hook.body);
  try {
    const configuration = new AuthenticationConfiguration();
    await ChannelValidation.authenticateChannelTokenWithServiceUrl(
      hook.authorization, credentials, activity.serviceUrl, activity.channelId, configuration);
    answers.push({ taken: true });
  } catch (error) {
    answers.push({ taken: false, why: error.message });
  }
}
server.close();
server.closeAllConnections();
process.stdout.write(JSON.stringify(answers));
