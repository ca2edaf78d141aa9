//! What a request costs while it waits for a person.

use std::sync::Arc;

use countersign_tests::cluster_world::{ClusterWorld, HOST};
use countersign_tests::cost;
use tokio::io::AsyncWriteExt as _;

use crate::load::{self, Route};
use crate::metric;

const COUNT: usize = 10_000;
const AT_ONCE: usize = 32;

/// Holds many different requests at the edge at once, each on a connection of its own, and prints the memory of each.
pub(crate) fn measure(
    runtime: &tokio::runtime::Runtime,
    world: &ClusterWorld,
    pid: u32,
    route: &Route,
    fake_key: &str,
) {
    let tls = Arc::new(load::plain_config(route));
    let before = cost::rss_mib(pid);
    let open = |number: usize| {
        let (route, tls) = (route.clone(), Arc::clone(&tls));
        let request = format!(
            "POST /v1/held/{number} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {fake_key}\r\nContent-Length: 3\r\n\r\na=1"
        );
        async move {
            let mut stream = load::secured(&route, tls).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            stream
        }
    };
    let held = runtime.block_on(async {
        let mut held = Vec::with_capacity(COUNT);
        for first in (0..COUNT).step_by(AT_ONCE) {
            let next = (first..(first + AT_ONCE).min(COUNT)).map(&open);
            held.extend(futures::future::join_all(next).await);
        }
        held
    });
    world.eventually("all of them held", || {
        (metric(world, "held_requests") as usize == COUNT).then_some(())
    });
    let each = (cost::rss_mib(pid) - before) * 1024.0 / COUNT as f64;
    println!(
        "\nheld: {COUNT} at once, {each:.1} KiB each of the edge's memory, TLS with the agent included"
    );
    drop(held);
}
