//! `countersign env`: what makes every common toolchain go through the edge and trust it.

use std::path::Path;

use zeroize::Zeroizing;

use super::agent;
use crate::args::{Env, EnvFormat};
use crate::context::Context;
use crate::failure::{Done, Failure};
use crate::{print, secret, variable};

/// Variables that hold the proxy's URL.
pub(crate) const PROXY: [&str; 4] = ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"];

/// Variables that hold the path of the CA file: Node, OpenSSL and Go, curl, Python requests, git, the AWS CLI and SDKs, gRPC.
pub(crate) const CA: [&str; 7] = [
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];

/// Node heeds proxy variables only when told to; git must neither ask a person nor try other ways to authenticate.
const FIXED: [(&str, &str); 3] = [
    ("NODE_USE_ENV_PROXY", "1"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_HTTP_PROXY_AUTHMETHOD", "basic"),
];

pub(crate) fn run(context: &Context, command: &Env) -> Done {
    let edge = context.edge.proxy.as_deref().ok_or_else(|| {
        Failure::usage("no edge is known here: set COUNTERSIGN_EDGE to its http://host:port, or log in with --edge")
    })?;
    let ca = command.ca_path.clone().or_else(|| context.edge.ca.clone()).ok_or_else(|| {
        Failure::usage(
            "the edge's CA file is not known here: set COUNTERSIGN_EDGE_CA, or give --ca-path",
        )
    })?;
    let token = token(command)?;
    let variables = variables(&agent::proxy_url(edge, &command.agent, &token), &ca);
    print::raw(&written(&variables, command.format)?)
}

type Variables = Vec<(&'static str, Zeroizing<String>)>;

fn token(command: &Env) -> Result<Zeroizing<String>, Failure> {
    match variable("COUNTERSIGN_AGENT_TOKEN").map(Zeroizing::new) {
        Some(token) if command.token_file.is_none() => {
            secret::word(token.as_bytes(), "COUNTERSIGN_AGENT_TOKEN")
        }
        _ => secret::read_word(command.token_file.as_deref(), "the agent's token"),
    }
}

fn variables(proxy: &str, ca: &Path) -> Variables {
    let text = |text: &str| Zeroizing::new(text.to_owned());
    let path = ca.display().to_string();
    let proxies = PROXY.iter().map(|name| (*name, text(proxy)));
    let authorities = CA.iter().map(|name| (*name, text(&path)));
    proxies
        .chain(authorities)
        .chain(FIXED.iter().map(|(name, value)| (*name, text(value))))
        .collect()
}

fn written(variables: &Variables, format: EnvFormat) -> Result<Zeroizing<String>, Failure> {
    if let Some((name, _)) = variables.iter().find(|(_, value)| value.contains(char::is_control)) {
        return Err(Failure::Usage(format!("{name} would hold a control character")));
    }
    let line = |(name, value): &(&str, Zeroizing<String>)| match format {
        EnvFormat::Sh => format!("export {name}='{}'\n", value.replace('\'', r"'\''")),
        EnvFormat::Dotenv => {
            let escaped = value
                .replace('\\', r"\\")
                .replace('"', "\\\"")
                .replace('$', r"\$")
                .replace('`', r"\`");
            format!("{name}=\"{escaped}\"\n")
        }
        EnvFormat::Docker | EnvFormat::Json => format!("{name}={}\n", value.as_str()),
    };
    if format != EnvFormat::Json {
        return Ok(Zeroizing::new(variables.iter().map(line).collect()));
    }
    let object: serde_json::Map<_, _> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
    let text = serde_json::to_string_pretty(&object).map_err(Failure::refused)?;
    Ok(Zeroizing::new(format!("{text}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(format: EnvFormat) -> String {
        let variables =
            variables("http://bot:cs_agt_x@127.0.0.1:7080", Path::new("/tmp/it's $HOME/ca.pem"));
        written(&variables, format).unwrap().to_string()
    }

    #[test]
    fn a_shell_reads_back_exactly_the_values() {
        let script =
            format!("{}printf '%s|%s' \"$HTTPS_PROXY\" \"$SSL_CERT_FILE\"", of(EnvFormat::Sh));
        let out = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(
            String::from_utf8(out.stdout).unwrap(),
            "http://bot:cs_agt_x@127.0.0.1:7080|/tmp/it's $HOME/ca.pem"
        );
    }

    #[test]
    fn every_format_has_every_variable() {
        let json: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&of(EnvFormat::Json)).unwrap();
        let names: Vec<&str> =
            PROXY.into_iter().chain(CA).chain(FIXED.map(|(name, _)| name)).collect();
        assert_eq!(json.len(), names.len());
        for name in names {
            assert!(json.contains_key(name), "{name}");
            assert!(of(EnvFormat::Sh).contains(&format!("export {name}=")), "{name}");
            assert!(of(EnvFormat::Dotenv).contains(&format!("{name}=\"")), "{name}");
            assert!(of(EnvFormat::Docker).contains(&format!("{name}=")), "{name}");
        }
    }
}
