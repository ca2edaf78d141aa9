//! What is told about a running process: log lines, traces, and the figures that are scraped.
//!
//! None of it ever holds a key, a fake key, a token or a body: callers name things, never values.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, global};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::{Encoder as _, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Keeps telemetry alive; what is not exported yet is exported when it is dropped.
#[must_use = "traces end when this is dropped"]
pub struct Guard {
    traces: Option<SdkTracerProvider>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(traces) = &self.traces {
            // Nothing is left to tell it to: the exporter has said on the log what it could not send.
            let _ = traces.shutdown_with_timeout(Duration::from_secs(2));
        }
    }
}

/// Sends log lines as JSON to stderr (filtered by `COUNTERSIGN_LOG`, else `RUST_LOG`, else `info`), and traces to
/// `OTEL_EXPORTER_OTLP_ENDPOINT` when that is set. Call it once, inside the async runtime.
///
/// # Errors
/// A filter that cannot be read, an endpoint that is not one, or a process that did this before.
pub fn init(service_name: &'static str) -> anyhow::Result<Guard> {
    global::set_text_map_propagator(TraceContextPropagator::new());
    let traces = match std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT") {
        Ok(endpoint) if !endpoint.is_empty() => Some(exporting_to(&endpoint, service_name)?),
        _ => None,
    };
    let spans = traces
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("countersign")));
    let lines =
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(spans.map(|layer| {
            layer.with_filter(EnvFilter::new(
                "info,h2=off,hyper=off,openraft=off,sled=off,tonic=off,tower=off",
            ))
        }))
        .with(lines.with_filter(filter()?))
        .try_init()
        .context("telemetry was set up twice in one process")?;
    Ok(Guard { traces })
}

fn filter() -> anyhow::Result<EnvFilter> {
    let (variable, text) = ["COUNTERSIGN_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| {
            std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| (name, text))
        })
        .unwrap_or_else(|| ("COUNTERSIGN_LOG", "info,openraft=off,sled=warn".to_owned()));
    EnvFilter::try_new(&text).with_context(|| {
        format!("{variable} is not a filter such as `info` or `countersign=debug`")
    })
}

fn exporting_to(endpoint: &str, service_name: &'static str) -> anyhow::Result<SdkTracerProvider> {
    // The exporter reads the endpoint, headers and timeouts from the standard variables itself.
    let exporter =
        opentelemetry_otlp::SpanExporter::builder().with_tonic().build().with_context(|| {
            format!("OTEL_EXPORTER_OTLP_ENDPOINT: traces cannot be sent to {endpoint}")
        })?;
    let resource = Resource::builder()
        .with_service_name(service_name)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    global::set_tracer_provider(provider.clone());
    Ok(provider)
}

/// Makes `span` part of the trace that the caller's `traceparent` header names, if it names one.
pub(crate) fn continue_trace(span: &tracing::Span, headers: &http::HeaderMap) {
    struct Headers<'a>(&'a http::HeaderMap);
    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key).and_then(|value| value.to_str().ok())
        }

        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(http::HeaderName::as_str).collect()
        }
    }
    if headers.contains_key("traceparent") {
        let parent =
            global::get_text_map_propagator(|propagator| propagator.extract(&Headers(headers)));
        // Without an exporter there is no trace to be part of.
        let _ = span.set_parent(parent);
    }
}

/// A span in the trace of the request that an approval is about, whose `traceparent` was kept with it.
pub(crate) fn in_trace(span: tracing::Span, traceparent: &str) -> tracing::Span {
    let mut headers = http::HeaderMap::new();
    if let Ok(value) = traceparent.parse() {
        headers.insert("traceparent", value);
    }
    continue_trace(&span, &headers);
    span
}

/// The figures of one node.
pub(crate) struct Metrics {
    registry: Registry,
    /// Approvals by the state that they reached since this process started.
    pub(crate) approvals: IntCounterVec,
    /// Calls of the admin API.
    pub(crate) calls: IntCounterVec,
    applied_index: IntGauge,
    approvals_open: IntGaugeVec,
    edges_connected: IntGauge,
    held_requests: IntGauge,
    leader: IntGauge,
    nodes: IntGaugeVec,
    raft_commit_index: IntGauge,
    raft_leader: IntGauge,
    raft_peer_lag: IntGaugeVec,
    raft_term: IntGauge,
    sealed: IntGauge,
    unsealed_nodes: IntGauge,
}

/// What is known at the moment of a scrape; all zero while sealed.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) applied_index: u64,
    pub(crate) approved: usize,
    pub(crate) edges_connected: usize,
    pub(crate) held_requests: usize,
    pub(crate) leader: bool,
    pub(crate) learners: usize,
    pub(crate) pending: usize,
    pub(crate) commit_index: u64,
    /// Whether anybody leads, as far as this node knows.
    pub(crate) led: bool,
    /// By node name, while this node leads: entries that it is not known to have.
    pub(crate) peer_lag: Vec<(String, u64)>,
    pub(crate) term: u64,
    pub(crate) sealed: bool,
    pub(crate) unsealed_nodes: usize,
    pub(crate) voters: usize,
}

impl Metrics {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| -> anyhow::Result<IntGauge> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> anyhow::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> anyhow::Result<IntGaugeVec> {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        };
        Ok(Self {
            approvals: counters(
                "countersign_approvals_total",
                "Approvals that reached a state since this process started.",
                &["state"],
            )?,
            calls: counters(
                "countersign_api_calls_total",
                "Calls of the admin API, by method and code.",
                &["method", "code"],
            )?,
            applied_index: gauge(
                "countersign_applied_index",
                "Index of the last log entry that was applied.",
            )?,
            approvals_open: gauges(
                "countersign_approvals_open",
                "Approvals that can still be voted on or used, by state.",
                &["state"],
            )?,
            edges_connected: gauge("countersign_edges_connected", "Edges that are attached now.")?,
            held_requests: gauge("countersign_held_requests", "Requests that wait at edges now.")?,
            leader: gauge("countersign_leader", "1 while this node leads the cluster.")?,
            nodes: gauges(
                "countersign_nodes",
                "Nodes in the cluster's membership, by role.",
                &["role"],
            )?,
            raft_commit_index: gauge(
                "countersign_raft_commit_index",
                "Index of the last log entry that this node knows to be committed.",
            )?,
            raft_leader: gauge(
                "countersign_raft_leader",
                "1 while this node knows of a leader, itself or another.",
            )?,
            raft_peer_lag: gauges(
                "countersign_raft_peer_lag",
                "While this node leads: committed entries that another node is not known to have.",
                &["node"],
            )?,
            raft_term: gauge(
                "countersign_raft_term",
                "The newest Raft term that this node knows.",
            )?,
            sealed: gauge("countersign_sealed", "1 while this node is sealed.")?,
            unsealed_nodes: gauge(
                "countersign_unsealed_nodes",
                "Nodes of the cluster that are unsealed and reached from here, this one included.",
            )?,
            registry,
        })
    }

    /// The text that Prometheus scrapes.
    pub(crate) fn render(&self, now: &Snapshot) -> anyhow::Result<String> {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let index = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.applied_index.set(index(now.applied_index));
        self.approvals_open.with_label_values(&["approved"]).set(count(now.approved));
        self.approvals_open.with_label_values(&["pending"]).set(count(now.pending));
        self.edges_connected.set(count(now.edges_connected));
        self.held_requests.set(count(now.held_requests));
        self.leader.set(i64::from(now.leader));
        self.nodes.with_label_values(&["learner"]).set(count(now.learners));
        self.nodes.with_label_values(&["voter"]).set(count(now.voters));
        self.raft_commit_index.set(index(now.commit_index));
        self.raft_leader.set(i64::from(now.led));
        // Whoever is no peer any more, or is not led from here, has no lag.
        self.raft_peer_lag.reset();
        for (node, lag) in &now.peer_lag {
            self.raft_peer_lag.with_label_values(&[node.as_str()]).set(index(*lag));
        }
        self.raft_term.set(index(now.term));
        self.sealed.set(i64::from(now.sealed));
        self.unsealed_nodes.set(count(now.unsealed_nodes));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8(text)?)
    }
}
