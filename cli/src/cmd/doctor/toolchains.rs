//! Whether the tools that agents use would trust the edge, and go through it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::time::timeout;

use super::{Finding, PATIENCE};
use crate::variable;

/// How one toolchain comes to trust the edge's authority.
struct Toolchain {
    name: &'static str,
    /// Succeeds where the toolchain is there.
    probe: &'static [&'static str],
    /// The first of these that is set is the one that it heeds.
    variables: &'static [&'static str],
    advice: &'static str,
}

const TOOLCHAINS: [Toolchain; 5] = [
    Toolchain {
        name: "curl",
        probe: &["curl", "--version"],
        variables: &["CURL_CA_BUNDLE", "SSL_CERT_FILE"],
        advice: "",
    },
    Toolchain {
        name: "python requests",
        probe: &["python3", "-c", "import requests"],
        variables: &["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"],
        advice: "",
    },
    Toolchain {
        name: "node",
        probe: &["node", "--version"],
        variables: &["NODE_EXTRA_CA_CERTS"],
        advice: "",
    },
    Toolchain {
        name: "git",
        probe: &["git", "--version"],
        variables: &["GIT_SSL_CAINFO"],
        advice: "",
    },
    Toolchain { name: "go", probe: &["go", "version"], variables: &["SSL_CERT_FILE"], advice: "" },
];

pub(super) async fn toolchains(ca: Option<&Path>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(path) = ca else {
        findings.push(Finding::bad(
            "edge CA",
            "its file is not known here",
            "set COUNTERSIGN_EDGE_CA to it",
        ));
        return findings;
    };
    let authority = match certificates(path).map(|found| found.into_iter().next()) {
        Ok(Some(authority)) => authority,
        Ok(None) => {
            findings.push(Finding::bad(
                "edge CA",
                format!("{} holds no certificate", path.display()),
                "is that the edge's CA file?",
            ));
            return findings;
        }
        Err(why) => {
            findings.push(Finding::bad(
                "edge CA",
                why,
                "is the edge running, and is that its CA file?",
            ));
            return findings;
        }
    };
    for toolchain in &TOOLCHAINS {
        if present(toolchain.probe).await {
            findings.push(trust(toolchain, &authority, variable));
        }
    }
    if present(&["node", "--version"]).await
        && variable("NODE_USE_ENV_PROXY").as_deref() != Some("1")
    {
        findings.push(Finding::bad(
            "node proxy",
            "it does not heed proxy variables by itself",
            "export NODE_USE_ENV_PROXY=1 (Node 22.21, 24 or later)",
        ));
    }
    if present(&["java", "-version"]).await {
        findings.push(java(path));
    }
    findings
}

fn trust(
    toolchain: &Toolchain,
    authority: &CertificateDer<'_>,
    variable: impl Fn(&str) -> Option<String>,
) -> Finding {
    let Toolchain { name, variables, advice, .. } = toolchain;
    let advice =
        if advice.is_empty() { "eval \"$(countersign env --agent NAME)\"" } else { advice };
    let Some((set, path)) =
        variables.iter().find_map(|set| Some((set, PathBuf::from(variable(set)?))))
    else {
        return Finding::bad(
            name,
            format!("{} is not set: it will not trust the edge", variables[0]),
            advice,
        );
    };
    match certificates(&path) {
        Err(why) => Finding::bad(name, format!("{set}: {why}"), advice),
        Ok(found) if found.contains(authority) => {
            Finding::good(name, format!("{set} holds the edge's authority"))
        }
        Ok(_) => Finding::bad(
            name,
            format!("{set} names {}, which does not hold the edge's authority", path.display()),
            advice,
        ),
    }
}

/// Java heeds no variable of the kind; it needs a trust store and its own proxy settings.
fn java(ca: &Path) -> Finding {
    match variable("JAVA_TOOL_OPTIONS") {
        Some(options)
            if options.contains("javax.net.ssl.trustStore")
                && options.contains("https.proxyHost") =>
        {
            Finding::good("java", "JAVA_TOOL_OPTIONS names a trust store and a proxy")
        }
        _ => Finding::bad(
            "java",
            "it heeds neither the proxy nor the CA variables",
            format!(
                "keytool -importcert -noprompt -alias countersign -file {} -keystore trust.p12 -storepass changeit; then set JAVA_TOOL_OPTIONS to \
                 -Djavax.net.ssl.trustStore=trust.p12 -Dhttps.proxyHost=… -Dhttps.proxyPort=…",
                ca.display()
            ),
        ),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = std::fs::read(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{} is not PEM: {error}", path.display()))
}

async fn present(probe: &'static [&'static str]) -> bool {
    let probed = tokio::task::spawn_blocking(|| {
        let mut command = Command::new(probe[0]);
        command.args(&probe[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    });
    matches!(timeout(PATIENCE, probed).await, Ok(Ok(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str) -> (String, CertificateDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec![name.into()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), certificate.der().clone())
    }

    #[test]
    fn a_toolchain_is_judged_by_the_certificate_and_not_by_the_variable() {
        let dir = tempfile::tempdir().unwrap();
        let (pem, ours) = authority("ours");
        let (other_pem, _) = authority("other");
        let right = dir.path().join("right.pem");
        let wrong = dir.path().join("wrong.pem");
        std::fs::write(&right, format!("{other_pem}{pem}")).unwrap();
        std::fs::write(&wrong, other_pem).unwrap();
        let with = |path: Option<&Path>| {
            let path = path.map(|path| path.display().to_string());
            trust(&TOOLCHAINS[0], &ours, move |name| {
                path.clone().filter(|_| name == "CURL_CA_BUNDLE")
            })
        };
        assert!(with(Some(&right)).ok);
        assert!(!with(Some(&wrong)).ok);
        assert!(!with(Some(&dir.path().join("absent.pem"))).ok);
        assert!(!with(None).ok);
    }
}
