//! Where this node listens, under which names, and where others find it.

use std::net::SocketAddr;

use crate::config::Config;
use crate::state;

/// What was bound, and what the configuration says of it.
pub(crate) struct Addresses {
    pub(super) api: SocketAddr,
    pub(super) gateway: SocketAddr,
    pub(super) cluster: Option<SocketAddr>,
    /// Of this node, beside those that every node has.
    pub(super) names: Vec<String>,
    /// Where chat platforms reach the web listener; empty: nowhere.
    pub(super) hooks: String,
    told: state::Addresses,
}

impl Addresses {
    pub(super) fn of(
        config: &Config,
        api: SocketAddr,
        gateway: SocketAddr,
        web: Option<SocketAddr>,
        cluster: Option<SocketAddr>,
    ) -> Self {
        let bound = [Some(api), Some(gateway), web, cluster];
        let ports: Vec<_> = bound.iter().flatten().map(SocketAddr::port).collect();
        let advertised = [
            config.api_advertise.as_deref(),
            config.gateway_advertise.as_deref(),
            config.cluster.advertise.as_deref(),
        ];
        let listened_on = [Some(api), Some(gateway)].into_iter().flatten().map(|it| it.ip());
        let listened_on = listened_on.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
        let mut names = config.server_names.clone();
        names.extend(listened_on);
        // Edges and operators dial the first two, so they have to be in the certificate.
        names.extend(advertised[..2].iter().flatten().map(|told| host_of(told).to_owned()));
        names.sort();
        names.dedup();

        let named = config.server_names.first().map_or("localhost", String::as_str);
        let told_or_bound = |told: Option<&str>, bound: SocketAddr| match told {
            Some(told) => told.to_owned(),
            None if bound.ip().is_unspecified() => format!("{}:{}", bracketed(named), bound.port()),
            None => bound.to_string(),
        };
        let mut own_names = crate::tls::with_local(&names);
        own_names.extend(advertised[2].map(|told| host_of(told).to_owned()));
        own_names
            .extend(cluster.filter(|it| !it.ip().is_unspecified()).map(|it| it.ip().to_string()));
        own_names.sort();
        own_names.dedup();
        let own = own_names.iter().flat_map(|name| {
            let name = name.clone();
            ports.iter().map(move |port| format!("{name}:{port}"))
        });
        let told = state::Addresses {
            cluster: cluster.map(|bound| told_or_bound(advertised[2], bound)).unwrap_or_default(),
            api: told_or_bound(advertised[0], api),
            gateway: told_or_bound(advertised[1], gateway),
            own: own.collect(),
        };
        let bound = web.map(|web| format!("http://{web}"));
        let hooks = config.web_public_url.clone().or(bound).unwrap_or_default();
        Self { api, gateway, cluster, names, hooks, told }
    }

    /// As the cluster keeps them.
    pub(super) fn told(&self) -> &state::Addresses {
        &self.told
    }
}

/// Without its port and, of an IPv6 address, without its brackets.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

fn bracketed(name: &str) -> String {
    if name.contains(':') { format!("[{name}]") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(config: &Config, api: &str) -> state::Addresses {
        let address = |text: &str| text.parse().unwrap();
        Addresses::of(
            config,
            address(api),
            address("[::]:8444"),
            Some(address("127.0.0.1:8445")),
            Some(address("0.0.0.0:8446")),
        )
        .told
    }

    #[test]
    fn what_is_advertised_wins_then_what_is_bound_then_a_name_of_the_certificate() {
        let mut config = Config { server_names: vec!["cp.example".into()], ..Config::default() };
        config.cluster.advertise = Some("node-1.example:9446".into());
        let found = told(&config, "10.0.0.1:8443");
        assert_eq!(found.api, "10.0.0.1:8443");
        assert_eq!(found.gateway, "cp.example:8444");
        assert_eq!(found.cluster, "node-1.example:9446");
        config.gateway_advertise = Some("[2001:db8::1]:443".into());
        assert_eq!(told(&config, "10.0.0.1:8443").gateway, "[2001:db8::1]:443");
    }

    #[test]
    fn no_edge_may_dial_any_listener_under_any_name() {
        let mut config = Config { server_names: vec!["cp.example".into()], ..Config::default() };
        config.cluster.advertise = Some("node-1.example:9446".into());
        config.gateway_advertise = Some("[2001:db8::1]:443".into());
        let own = told(&config, "10.0.0.1:8443").own;
        for name in [
            "localhost",
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "cp.example",
            "node-1.example",
            "2001:db8::1",
        ] {
            for port in [8443, 8444, 8445, 8446] {
                assert!(own.contains(&format!("{name}:{port}")), "{name}:{port} in {own:?}");
            }
        }
    }
}
