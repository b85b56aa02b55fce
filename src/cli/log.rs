//! The log on stderr: for people on a terminal, JSON otherwise; never through a progress bar. Beside it, in a build that
//! has them and where a collector is named, the traces.

use std::io::{self, IsTerminal as _, Write};

use indicatif::MultiProgress;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use super::traces::{self, Traces};
use crate::config::{Log, LogFormat};
use crate::error::{Error, Result};

/// Starts the log and the traces of `host`; the bars that are drawn beside the log step aside for every line.
///
/// `serve` logs at `log.level`; other verbs only errors, unless they are `verbose`.
pub(super) fn start(
    config: &Log,
    host: &str,
    serve: bool,
    verbose: bool,
) -> Result<(MultiProgress, Option<Traces>)> {
    let bars = MultiProgress::new();
    // That a collector is away is none of the business of who waits for a model.
    let quiet = "error,opentelemetry=off,opentelemetry_sdk=off,opentelemetry-otlp=off,opentelemetry-http=off";
    let level = if serve || verbose { config.level.as_str() } else { quiet };
    let filter = EnvFilter::try_new(level).map_err(|error| Error::internal(format!("log.level: {error}")))?;
    let terminal = io::stderr().is_terminal();
    let human = match config.format {
        LogFormat::Auto => terminal || !serve,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let layer = fmt::layer().with_writer(Beside(bars.clone()));
    let layer = if human {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        layer.with_ansi(colour).with_target(false).boxed()
    } else {
        layer.json().flatten_event(true).with_span_list(false).boxed()
    };
    let (traces, exported) = traces::start(host)?.unzip();
    tracing_subscriber::registry().with(layer.with_filter(filter)).with(exported).init();
    Ok((bars, traces))
}

/// Writes whole lines while the bars are lifted.
#[derive(Clone)]
struct Beside(MultiProgress);

impl Write for Beside {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write_all(line)).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Beside {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
