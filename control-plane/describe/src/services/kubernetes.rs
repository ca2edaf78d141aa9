//! The Kubernetes API: every kind of object is addressed alike, so the sentence is made from the path.

use countersign_policy::json::Json;

use crate::ask::Ask;
use crate::words::{quoted, word};
use crate::{Risk, Said};
use Risk::{Code, Destructive, People, Read, Write};

/// Hosts at which nothing else is served.
pub(crate) fn is_at(host: &str) -> bool {
    const NAMES: [&str; 4] = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    const BELOW: [&str; 4] =
        [".azmk8s.io", ".eks.amazonaws.com", ".gke.goog", ".k8s.ondigitalocean.com"];
    NAMES.contains(&host) || BELOW.iter().any(|suffix| host.ends_with(suffix))
}

/// Whether a path at another host is one of this API's, by its groups.
pub(crate) fn may_be(path: &str) -> bool {
    let mut segments = path.trim_start_matches('/').split('/');
    match (segments.next(), segments.next(), segments.next()) {
        (Some("api"), Some("v1"), Some(kind)) => {
            matches!(kind, "namespaces" | "nodes" | "persistentvolumes" | "pods" | "secrets")
        }
        (Some("apis"), Some(group), Some(version)) => {
            let known = matches!(group, "apps" | "autoscaling" | "batch" | "policy");
            version.starts_with('v') && (known || group.ends_with(".k8s.io"))
        }
        _ => false,
    }
}

/// As [`describe`], where only the path says that it is this API.
pub(crate) fn elsewhere(ask: &mut Ask<'_>) -> Said {
    let said = describe(ask)?;
    Ok(said.map(|(risk, sentence)| (risk, format!("If this is a Kubernetes API: {sentence}"))))
}

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    let path = ask.path();
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    let (["api", "v1", rest @ ..] | ["apis", _, _, rest @ ..]) = path.as_slice() else {
        return Ok(None);
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !matches!(rest, [] | ["finalize" | "status"]) => {
            (Some(*namespace), rest)
        }
        rest => (None, rest),
    };
    let (kind, name, part) = match rest {
        [kind] => (*kind, None, ""),
        [kind, name] => (*kind, Some(*name), ""),
        [kind, name, part] => (*kind, Some(*name), *part),
        // `proxy` has a path of its own.
        [kind, name, "proxy", ..] => (*kind, Some(*name), "proxy"),
        _ => return Ok(None),
    };
    if kind.is_empty() || name == Some("") || namespace == Some("") {
        return Ok(None);
    }
    let place = namespace.map_or_else(String::new, |it| format!(" in namespace {}", word(it)));
    let one = |name: &str| format!("{} {}{place}", singular(kind), word(name));
    let all = format!("all {}{place}", word(kind));
    let (risk, sentence) = match (ask.method, name, part) {
        (_, Some(name), "exec") => (Code, format!("Run {} in {}", command(ask), one(name))),
        (_, Some(name), "attach") => (Code, format!("Attach to {}", one(name))),
        (_, Some(name), "portforward") => (Code, format!("Open a port of {}", one(name))),
        (method, Some(name), "proxy") => {
            (Code, format!("Send {} through {}", word(method), one(name)))
        }
        ("POST", Some(name), "eviction") => (Destructive, format!("Evict {}", one(name))),
        ("POST", Some(name), "token") => (People, format!("Make a token for {}", one(name))),
        ("POST", Some(name), "binding") => (Code, format!("Assign {} to a node", one(name))),
        ("PUT" | "PATCH", Some(name), "scale") => {
            let replicas = ask.text(".spec.replicas");
            let to = replicas.map_or_else(String::new, |number| format!(" to {}", word(&number)));
            let risk = if ask.is(".spec.replicas", "0") { Destructive } else { Write };
            (risk, format!("Scale {}{to}", one(name)))
        }
        ("PUT" | "PATCH", Some(name), "ephemeralcontainers") => {
            (Code, format!("Start a debugging container in {}", one(name)))
        }
        ("PUT" | "PATCH", Some(name), "approval") => (People, format!("Approve {}", one(name))),
        ("GET", Some(name), "log") => (Read, format!("Read the log of {}", one(name))),
        ("PUT" | "PATCH", Some(name), "status" | "finalize") => {
            (Write, format!("Change the {part} of {}", one(name)))
        }
        ("DELETE", Some(name), "") if kind == "namespaces" => {
            (Destructive, format!("Delete {} and everything in it", one(name)))
        }
        ("DELETE", Some(name), "") => (Destructive, format!("Delete {}", one(name))),
        ("DELETE", None, "") => {
            let chosen = ask.text("?labelSelector");
            let chosen = chosen.map_or_else(String::new, |it| format!(" that fit {}", word(&it)));
            (Destructive, format!("Delete {all}{chosen}"))
        }
        ("POST", None, "") => {
            let name = ask.text(".metadata.name").map(|name| format!(" {}", word(&name)));
            let name = name.unwrap_or_default();
            (to_write(kind), format!("Create {}{name}{place}", singular(kind)))
        }
        ("PUT", Some(name), "") => (to_write(kind), format!("Replace {}", one(name))),
        ("PATCH", Some(name), "") => {
            let applies = ask.text("@content-type");
            let applies = applies.is_some_and(|it| it.starts_with("application/apply-patch"));
            (to_write(kind), format!("{} {}", if applies { "Apply" } else { "Change" }, one(name)))
        }
        ("GET", Some(name), "") => (Read, format!("Read {}", one(name))),
        ("GET", None, "") => (Read, format!("List {all}")),
        _ => return Ok(None),
    };
    tell(ask);
    if ask.is("?dryRun", "All") && part.is_empty() {
        return Ok(Some((Read, format!("Try without effect: {sentence}"))));
    }
    Ok(Some((risk, sentence)))
}

fn tell(ask: &mut Ask<'_>) {
    let images = images(ask);
    if !images.is_empty() {
        ask.say("Images", images.join(", "), &[]);
    }
    for (name, field) in [
        ("Command", "?command"),
        ("Container", "?container"),
        ("Reads input", "?stdin"),
        ("Terminal", "?tty"),
        ("As user", "@impersonate-user"),
        ("As group", "@impersonate-group"),
        ("Fits", "?labelSelector"),
        ("Fits", "?fieldSelector"),
        ("Grace, s", "?gracePeriodSeconds"),
        ("Grace, s", ".gracePeriodSeconds"),
        ("What depends on it", ".propagationPolicy"),
        ("What depends on it", "?propagationPolicy"),
        ("Only tried", "?dryRun"),
        ("By", "?fieldManager"),
        ("Over others' fields", "?force"),
        ("Name", ".metadata.name"),
        ("Role", ".roleRef"),
        ("For", ".subjects"),
        ("Rules", ".rules"),
        ("Specification", ".spec"),
        ("Data", ".data"),
    ] {
        ask.fact(name, field);
    }
}

/// What is run, as it is given.
fn command(ask: &Ask<'_>) -> String {
    match ask.find("?command").as_deref() {
        Some(Json::Text(one)) => quoted(one),
        Some(Json::List(_)) => quoted(&ask.texts("?command").join(" ")),
        _ => "a command that is not named".to_owned(),
    }
}

/// Of the containers that a workload would run.
fn images(ask: &Ask<'_>) -> Vec<String> {
    const TEMPLATES: [&str; 3] =
        [".spec.jobTemplate.spec.template.spec", ".spec.template.spec", ".spec"];
    let mut found = Vec::new();
    for template in TEMPLATES {
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            let containers = ask.find(&format!("{template}.{list}"));
            let Some(Json::List(containers)) = containers.as_deref() else { continue };
            for container in containers {
                if let Json::Object(members) = container
                    && let Some((_, Json::Text(image))) =
                        members.iter().find(|(name, _)| name == "image")
                {
                    found.push(image.to_string());
                }
            }
        }
    }
    found
}

/// Workloads run what is written into them, and roles are what people may do.
fn to_write(kind: &str) -> Risk {
    match kind {
        "cronjobs"
        | "daemonsets"
        | "deployments"
        | "jobs"
        | "mutatingwebhookconfigurations"
        | "pods"
        | "podtemplates"
        | "replicasets"
        | "replicationcontrollers"
        | "statefulsets" => Code,
        "certificatesigningrequests"
        | "clusterrolebindings"
        | "clusterroles"
        | "networkpolicies"
        | "rolebindings"
        | "roles"
        | "secrets"
        | "serviceaccounts"
        | "validatingwebhookconfigurations" => People,
        _ => Write,
    }
}

/// "pods" is a pod.
fn singular(kind: &str) -> String {
    let one = match kind {
        "endpoints" => kind.to_owned(),
        _ => match (kind.strip_suffix("ies"), kind.strip_suffix("sses"), kind.strip_suffix('s')) {
            (Some(stem), ..) => format!("{stem}y"),
            (_, Some(stem), _) => format!("{stem}ss"),
            (.., Some(stem)) => stem.to_owned(),
            _ => kind.to_owned(),
        },
    };
    word(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_kind() {
        let kinds =
            [("pods", "pod"), ("ingresses", "ingress"), ("networkpolicies", "networkpolicy")];
        for (kind, one) in kinds {
            assert_eq!(singular(kind), one);
        }
    }
}
