//! Traces over OTLP: one for each attempt of a job, with its steps, to the collector that the environment names.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use support::{Hub, larder, models};

/// What came to a collector: its headers, and what it says.
type Sent = (HeaderMap, ExportTraceServiceRequest);

/// A collector; its thread ends with the test's process.
fn collector() -> (String, Receiver<Sent>) {
    let (tell, told) = channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let take = move |headers: HeaderMap, body: Bytes| async move {
        let request = ExportTraceServiceRequest::decode(body).expect("a request of OTLP");
        tell.send((headers, request)).ok();
    };
    let app = Router::new().route("/v1/traces", post(take));
    std::thread::spawn(move || runtime.block_on(async { axum::serve(listener, app).await }));
    (url, told)
}

fn attribute(of: &[KeyValue], name: &str) -> String {
    let value = of.iter().find(|pair| pair.key == name).and_then(|pair| pair.value.clone()?.value);
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn an_attempt_is_a_trace_with_its_steps() {
    let (hub, model) = (Hub::start(), models::tiny_gpt2(1, 20_000).named("a/one"));
    hub.add(model);
    let (url, told) = collector();
    let larder = larder!(&hub)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &url)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=of-the-collector")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=night,service.version=of-the-house")
        .env("LARDER__HOST__NAME", "gpu-7");
    larder.run(&["stage", "a/one"]).expect_code(0);
    // Everything has been sent by the end of the process.
    let sent: Vec<Sent> = told.try_iter().collect();
    assert!(sent.iter().all(|(headers, _)| headers["x-collector-key"] == "of-the-collector"));
    let resources: Vec<_> = sent.iter().flat_map(|(_, request)| &request.resource_spans).collect();
    let resource = &resources.first().expect("spans").resource.as_ref().expect("of somebody").attributes;
    assert_eq!(attribute(resource, "service.name"), "larder");
    assert_eq!(attribute(resource, "host.name"), "gpu-7");
    assert_eq!(attribute(resource, "deployment.environment.name"), "night");
    assert_eq!(attribute(resource, "service.version"), "of-the-house", "the environment has the last word");

    let spans: Vec<&Span> =
        resources.iter().flat_map(|of| &of.scope_spans).flat_map(|of| &of.spans).collect();
    let named = |name: &str| {
        let of = spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
        assert_eq!(of.len(), 1, "{name} among {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
        *of[0]
    };
    let job = named("job");
    let about = |name| attribute(&job.attributes, name);
    assert_eq!([about("kind"), about("model"), about("attempt")], ["download", "a/one", "1"]);
    assert_eq!(about("id").len(), 26, "the id of the job");
    assert!(job.events.iter().any(|event| event.name == "done"), "{:?}", job.events);
    for step in ["choose", "plan", "fetch", "publish"].map(named) {
        assert_eq!((&step.trace_id, &step.parent_span_id), (&job.trace_id, &job.span_id), "{}", step.name);
        assert!(step.start_time_unix_nano >= job.start_time_unix_nano, "{}", step.name);
        assert!(step.end_time_unix_nano <= job.end_time_unix_nano, "{}", step.name);
    }
}

#[test]
fn a_collector_that_is_away_or_nonsense_harms_nothing() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000).named("a/one"));
    let larder = larder!(&hub).env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    let begun = Instant::now();
    let staged = larder.run(&["stage", "a/one"]).expect_code(0);
    assert!(!staged.stderr.to_lowercase().contains("export"), "{staged:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let larder = larder.env("OTEL_EXPORTER_OTLP_ENDPOINT", "not an address");
    let refused = larder.run(&["ls"]).expect_code(2);
    assert!(refused.stderr.contains("traces cannot be sent"), "{refused:?}");
}
