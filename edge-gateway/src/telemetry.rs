//! What the edge says about itself: metrics on a listener of their own, JSON log lines, one trace per request. No
//! query, token, fake key or body is ever in any of them.

mod fields;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::Span;
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
            // The exporter has said on the log what it could not send.
            let _ = traces.shutdown_with_timeout(Duration::from_secs(2));
        }
    }
}

/// What traces are made of. The span of a request's way upstream is for them alone: lines say the same of the request.
const TRACED: &str =
    "info,countersign_edge_gateway::upstream=debug,h2=off,hyper=off,tonic=off,tower=off";

/// Sends log lines as JSON to stderr (filtered by `COUNTERSIGN_LOG`, else `RUST_LOG`, else `info`), and traces to
/// `OTEL_EXPORTER_OTLP_ENDPOINT` when that is set. Call it once, inside the async runtime.
///
/// # Errors
/// A filter that cannot be read, an endpoint that is not one, or a process that did this before.
pub fn init() -> anyhow::Result<Guard> {
    let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let filter =
        set("COUNTERSIGN_LOG").or_else(|| set("RUST_LOG")).unwrap_or_else(|| "info".into());
    let filter = EnvFilter::try_new(&filter).with_context(|| {
        format!("{filter} is not a log filter such as `info` or `countersign=debug`")
    })?;
    let traces = match set("OTEL_EXPORTER_OTLP_ENDPOINT") {
        Some(endpoint) => Some(exporting_to(&endpoint)?),
        None => None,
    };
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("countersign"))
            .with_filter(EnvFilter::new(TRACED))
    });
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .fmt_fields(fields::Fields)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(spans)
        .with(lines.with_filter(filter))
        .try_init()
        .context("telemetry was set up twice in one process")?;
    Ok(Guard { traces })
}

fn exporting_to(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    // The exporter reads the endpoint, headers and timeouts from the standard variables itself.
    let exporter = SpanExporter::builder().with_tonic().build().with_context(|| {
        format!("OTEL_EXPORTER_OTLP_ENDPOINT: traces cannot be sent to {endpoint}")
    })?;
    let resource = Resource::builder()
        .with_service_name("countersign-edge-gateway")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// The figures of one edge.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) requests: IntCounterVec,
    /// Those of them that were forwarded.
    pub(crate) forwarded: IntCounter,
    pub(crate) seconds: Histogram,
    pub(crate) connections: IntGauge,
    pub(crate) held: IntGauge,
    pub(crate) parked: IntGauge,
    pub(crate) websockets: IntGauge,
    pub(crate) tunnels: IntGauge,
    pub(crate) channels_ended: IntCounterVec,
    pub(crate) channel_bytes: IntCounterVec,
    pub(crate) attached: IntGauge,
    pub(crate) bundle_revision: IntGauge,
    pub(crate) leases: IntGauge,
    pub(crate) trust_epoch: IntGauge,
    pub(crate) certificate_until: IntGauge,
    pub(crate) alarms: IntCounterVec,
    pub(crate) decisions_ignored: IntCounterVec,
    pub(crate) outbox_dropped: IntCounter,
}

/// Counts one of something for as long as it lives.
pub(crate) struct Counted(IntGauge);

impl Counted {
    pub(crate) fn one(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new() -> anyhow::Result<Arc<Self>> {
        let registry = Registry::new();
        let name = |name: &str| format!("countersign_edge_{name}");
        let gauge = |what: &str, help: &str| -> anyhow::Result<IntGauge> {
            let gauge = IntGauge::new(name(what), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counters = |what: &str, help: &str, label: &str| -> anyhow::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(name(what), help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let buckets = vec![
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
            300.0,
        ];
        let help = "Time from a request's head to the head of its answer, holds included.";
        let seconds = Histogram::with_opts(
            HistogramOpts::new(name("request_seconds"), help).buckets(buckets),
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let help = "Messages to the control plane that were given up because too many waited.";
        let outbox_dropped = IntCounter::new(name("outbox_dropped_total"), help)?;
        registry.register(Box::new(outbox_dropped.clone()))?;
        let requests = counters("requests_total", "Requests by how they ended.", "outcome")?;
        Ok(Arc::new(Self {
            forwarded: requests.with_label_values(&["forwarded"]),
            requests,
            seconds,
            connections: gauge("connections", "Open connections of agents.")?,
            held: gauge("held_requests", "Requests that wait for a decision.")?,
            parked: gauge(
                "parked_requests",
                "Requests that wait for a decision without a client.",
            )?,
            websockets: gauge("websockets", "Open WebSockets.")?,
            tunnels: gauge("tunnels", "Open tunnels that are not looked into.")?,
            channels_ended: counters(
                "channels_ended_total",
                "WebSockets and tunnels by how they ended.",
                "outcome",
            )?,
            channel_bytes: counters(
                "channel_bytes_total",
                "Bytes that went through WebSockets and tunnels that have ended, both ways.",
                "kind",
            )?,
            attached: gauge("attached", "Whether the session with the control plane is up.")?,
            bundle_revision: gauge("bundle_revision", "Revision of the bundle in force.")?,
            leases: gauge("leases", "Leased keys in memory.")?,
            trust_epoch: gauge("trust_epoch", "Epoch of the trust bundle in force.")?,
            certificate_until: gauge(
                "certificate_not_after_seconds",
                "When this edge's certificate ends, in seconds since 1970.",
            )?,
            alarms: counters("alarms_total", "Alarms by kind.", "kind")?,
            decisions_ignored: counters(
                "decisions_ignored_total",
                "Decisions that did not count, and why.",
                "reason",
            )?,
            outbox_dropped,
            registry,
        }))
    }

    /// Serves what this collects as well.
    pub(crate) fn add(&self, collector: impl Collector + 'static) -> anyhow::Result<()> {
        Ok(self.registry.register(Box::new(collector))?)
    }

    fn text(&self) -> anyhow::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).context("metrics that are not text")
    }
}

/// Serves `/metrics` and `/healthz` until `stop`; answers the address that was taken.
pub(crate) async fn serve_metrics(
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listening on {listen} for metrics"))?;
    let address = listener.local_addr()?;
    let routes =
        Router::new().route("/metrics", get(scrape)).route("/healthz", get(|| async { "ok\n" }));
    let served = axum::serve(listener, routes.with_state(metrics))
        .with_graceful_shutdown(stop.cancelled_owned());
    tokio::spawn(async move {
        if let Err(why) = served.await {
            tracing::error!(%why, "the metrics listener ended");
        }
    });
    Ok(address)
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> Result<String, StatusCode> {
    metrics.text().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// Makes the request's span a child of the agent's, if it sent a valid `traceparent`.
pub(crate) fn continue_trace(span: &Span, headers: &HeaderMap) {
    if let Some(parent) =
        headers.get("traceparent").and_then(|value| parse_traceparent(value.to_str().ok()?))
    {
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
    }
}

/// The span as a W3C `traceparent`. Without an exporter the span has no ids: the agent's own are passed on then, or
/// fresh ones are made, so that the control plane's part of the story can always be found.
pub(crate) fn traceparent(span: &Span, headers: &HeaderMap) -> String {
    let context = span.context().span().span_context().clone();
    let (trace, parent) = if context.is_valid() {
        (context.trace_id(), context.span_id())
    } else {
        match headers.get("traceparent").and_then(|value| parse_traceparent(value.to_str().ok()?)) {
            Some(agents) => (agents.trace_id(), agents.span_id()),
            None => (TraceId::from_bytes(rand::random()), SpanId::from_bytes(rand::random())),
        }
    };
    format!("00-{trace}-{parent}-01")
}

fn parse_traceparent(text: &str) -> Option<SpanContext> {
    let mut fields = text.split('-');
    let (version, trace, parent, flags) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    if version.len() != 2
        || version == "ff"
        || trace.len() != 32
        || parent.len() != 16
        || flags.len() != 2
    {
        return None;
    }
    let trace = TraceId::from_hex(trace).ok()?;
    let parent = SpanId::from_hex(parent).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let context = SpanContext::new(trace, parent, flags, true, TraceState::default());
    context.is_valid().then_some(context)
}
