// What Slack's own types of app manifests (@slack/web-api) have against manifests, as TypeScript's compiler says it, and what
// the comments of those types say of lengths and characters.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const packages = process.env.COUNTERSIGN_NODE_PACKAGES;
const require = createRequire(packages);
const ts = require("typescript");

const { manifests } = JSON.parse(readFileSync(0, "utf8"));
// Where the compiler finds the types.
const folder = mkdtempSync(join(dirname(packages), "node_modules", ".manifest-"));
try {
  const files = manifests.map((manifest, at) => {
    const file = join(folder, `manifest${at}.ts`);
    const types = "@slack/web-api/dist/types/request/manifest";
    writeFileSync(file, `import type { Manifest } from "${types}";\nexport const manifest: Manifest = ${JSON.stringify(manifest)};\n`);
    return file;
  });
  const options = { noEmit: true, strict: true, skipLibCheck: true, types: [], module: ts.ModuleKind.CommonJS, moduleResolution: ts.ModuleResolutionKind.Node10, target: ts.ScriptTarget.ES2022 };
  const found = ts.getPreEmitDiagnostics(ts.createProgram(files, options));
  const faults = files.map((file, at) => {
    const own = found.filter((fault) => fault.file === undefined || fault.file.fileName === file);
    return [...own.map((fault) => ts.flattenDiagnosticMessageText(fault.messageText, "\n")), ...measured(manifests[at])];
  });
  process.stdout.write(JSON.stringify({ faults }));
} finally {
  rmSync(folder, { recursive: true });
}

function measured(manifest) {
  const faults = [];
  const fits = (name, text, most) => {
    if (text !== undefined && text.length > most) faults.push(`${name} is longer than ${most} characters`);
  };
  fits("name", manifest.display_information.name, 35);
  fits("description", manifest.display_information.description, 140);
  fits("display_name", manifest.features.bot_user.display_name, 80);
  if (!/^[a-z0-9._-]+$/.test(manifest.features.bot_user.display_name)) faults.push("display_name has other characters");
  for (const command of manifest.features.slash_commands) {
    fits("command", command.command, 32);
    fits("command's description", command.description, 2000);
    fits("usage_hint", command.usage_hint, 1000);
    if (!command.command.startsWith("/")) faults.push("a command begins with a slash");
  }
  const urls = [manifest.settings.event_subscriptions.request_url, manifest.settings.interactivity.request_url];
  urls.push(...manifest.features.slash_commands.map((command) => command.url));
  for (const url of urls) {
    if (url !== undefined && !url.startsWith("https://")) faults.push(`${url} is no https address`);
    if ((url === undefined) !== manifest.settings.socket_mode_enabled) faults.push("either addresses or Socket Mode");
  }
  return faults;
}
