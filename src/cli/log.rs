//! The log on stderr: for people on a terminal, JSON otherwise; never through a progress bar.

use std::io::{self, IsTerminal as _, Write};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat};
use crate::error::{Error, Result};

/// Starts the log; the bars that are drawn beside it step aside for every line.
///
/// `serve` logs at `log.level`; other verbs only errors, unless they are `verbose`.
pub(super) fn start(config: &Log, serve: bool, verbose: bool) -> Result<MultiProgress> {
    let bars = MultiProgress::new();
    let level = if serve || verbose { config.level.as_str() } else { "error" };
    let filter = EnvFilter::try_new(level).map_err(|error| Error::internal(format!("log.level: {error}")))?;
    let terminal = io::stderr().is_terminal();
    let human = match config.format {
        LogFormat::Auto => terminal || !serve,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Beside(bars.clone()));
    if human {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        builder.with_ansi(colour).with_target(false).init();
    } else {
        builder.json().flatten_event(true).with_span_list(false).init();
    }
    Ok(bars)
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
