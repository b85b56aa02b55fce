//! Traces of jobs to an OpenTelemetry collector, over OTLP: a span for each attempt of a job, and below it one for each of
//! its steps.
//!
//! They are sent if a collector is named the way OpenTelemetry has it, by `OTEL_EXPORTER_OTLP_ENDPOINT` or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`; the exporter obeys its other variables (headers, time-outs, resource attributes)
//! as well: <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>. A collector that does not answer delays nothing
//! but the end of the process, and that by [`LAST_WORDS`].

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use larder_jobs::Reason;

use crate::error::{Error, Result};

/// Any of these names a collector.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
/// How long the last spans may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Sends what is left when it is dropped.
pub(super) struct Traces(SdkTracerProvider);

/// Starts to send, if a collector is named.
///
/// # Errors
/// `invalid_request` if one of the variables makes no sense.
pub(super) fn start<S>(host: &str) -> Result<Option<(Traces, impl Layer<S> + use<S>)>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !ENDPOINTS.into_iter().any(is_set) {
        return Ok(None);
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build().map_err(|error| {
        Error::new(
            Reason::InvalidRequest,
            format!("traces cannot be sent: {error}"),
            format!("set {} to the address of a collector, such as http://localhost:4318", ENDPOINTS[0]),
        )
    })?;
    // What the environment says comes after, and wins.
    let own =
        [("service.name", "larder"), ("service.version", env!("CARGO_PKG_VERSION")), ("host.name", host)];
    let mut resource = Resource::builder_empty()
        .with_attributes(own.map(|(name, value)| KeyValue::new(name, value.to_owned())))
        .with_detector(Box::new(EnvResourceDetector::new()));
    if let Ok(name) = std::env::var("OTEL_SERVICE_NAME")
        && !name.is_empty()
    {
        resource = resource.with_service_name(name);
    }
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
    // Nothing of the exporter itself, which would have no end.
    let own = Targets::new().with_target("larder", LevelFilter::DEBUG);
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("larder")).with_filter(own);
    Ok(Some((Traces(provider), layer)))
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_WORDS) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}
