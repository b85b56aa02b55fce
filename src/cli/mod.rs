//! The command line: one file per verb, data on stdout, everything else on stderr.

mod args;
mod client;
mod completions;
mod config;
mod doctor;
mod evaluate;
mod evict;
mod fit;
mod hosts;
mod info;
mod jobs;
mod keep;
mod limit;
mod log;
mod ls;
mod models;
mod name;
mod output;
mod plan;
mod profile;
mod progress;
mod report;
mod serve;
mod stage;
#[cfg_attr(not(feature = "otlp"), path = "no_traces.rs")]
mod traces;
mod verify;
mod warm;
mod watch;
mod why;
mod xet_fetch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::{ContextKind, ErrorKind};
use larder_jobs::{Invalid, Reason};

use crate::config::{Environment, Settings, Sources};
use crate::error::{Error, Result};
use crate::hub;

use args::{Args, Verb};
use output::Output;

/// Exit code of a command that did what it was asked for.
const OK: u8 = 0;
/// Exit code of a command that found something wrong.
const FAILED: u8 = 1;
/// Exit code of a command that may succeed later: the job waits for something.
const TRY_LATER: u8 = 75;

/// Parses the process's command line, runs the verb, prints what failed.
pub fn main() -> ExitCode {
    main_from(std::env::args_os())
}

/// The same for a command line of the caller's, beginning with the program's name. Once in a process, since it
/// starts the log.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line: Vec<OsString> = args.into_iter().collect();
    if line.get(1).is_some_and(|verb| verb == hub::CHILD_VERB) {
        // Not for people: neither in the help nor in the completions.
        return match xet_fetch::run() {
            Ok(code) => ExitCode::from(code),
            Err(error) => failed(&Output::new(false, false), &error),
        };
    }
    let args = match Args::try_parse_from(&line) {
        Ok(args) => args,
        Err(error) => return usage(&error, line.iter().any(|arg| arg == "--json")),
    };
    let output = Output::new(args.common.json, args.common.bytes);
    match run(args, &output) {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&output, &error),
    }
}

fn failed(output: &Output, error: &Error) -> ExitCode {
    output.failure(error);
    ExitCode::from(error.reason().exit_code())
}

/// clap's own texts: help and version on stdout with 0, mistakes on stderr with 2.
///
/// A value that larder itself refuses is told the way every other failure is, with its hint.
fn usage(error: &clap::Error, json: bool) -> ExitCode {
    let output = Output::new(json, false);
    let refused = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Invalid>());
    match (error.kind(), refused) {
        (ErrorKind::DisplayHelp | ErrorKind::DisplayVersion, _) => {
            // A closed pipe is no reason to fail here.
            let _ = error.print();
            return ExitCode::from(OK);
        }
        (_, Some(invalid)) => {
            // A flag is named; whatever stands alone names itself.
            let flag = error.get(ContextKind::InvalidArg).map(ToString::to_string);
            let place =
                flag.filter(|flag| flag.starts_with('-')).map(|flag| format!("{flag}: ")).unwrap_or_default();
            let what = format!("{place}{invalid}");
            output.failure(&Error::new(invalid.reason(), what, invalid.hint()));
        }
        _ if json => {
            let text = error.to_string();
            let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            output.failure(&Error::new(Reason::InvalidRequest, what, "see larder --help"));
        }
        _ => {
            let _ = error.print();
        }
    }
    ExitCode::from(Reason::InvalidRequest.exit_code())
}

fn run(args: Args, output: &Output) -> Result<u8> {
    let sources = Sources { file: args.common.config.clone(), flags: args.common.settings()? };
    match args.verb {
        Verb::Completions { shell } => return completions::run(shell, output),
        Verb::Config { verb } => return config::run(&verb, &sources, output),
        _ => {}
    }
    let settings = Settings::load(&sources, &Environment::process())?;
    let serve = matches!(args.verb, Verb::Serve);
    let host = &settings.config.host.name;
    // The last spans go when everything has ended.
    let (bars, _traces) = log::start(&settings.config.log, host, serve, args.common.verbose)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("cannot start the runtime: {error}")))?;
    let code = runtime.block_on(async {
        match args.verb {
            Verb::Serve => serve::run(settings, sources).await,
            Verb::Stage(stage) if stage.dry_run => plan::run(settings, stage.job()?, output).await,
            Verb::Stage(stage) if stage.plan.is_some() => {
                stage::run_plan(settings, &stage, output, bars).await
            }
            Verb::Stage(stage) => stage::run(settings, stage, output, bars).await,
            Verb::Plan { several, choice, on } => plan::either(settings, several, choice, on, output).await,
            Verb::Fit { want, on } => fit::run(settings, want, on, output).await,
            Verb::Models { name, category, fits, cards } => {
                models::run(&settings, name.as_deref(), category, fits.as_deref(), cards, output)
            }
            Verb::Info => info::run(settings, output).await,
            Verb::Profile { model, tests, disk_bytes, detach } => {
                let tests = tests.into_iter().map(Into::into).collect();
                profile::run(settings, profile::Ask { model, tests, disk_bytes, detach }, output, bars).await
            }
            Verb::Preload { model, force, detach } => {
                profile::preload(settings, model, force, detach, output, bars).await
            }
            Verb::Report(ask) => report::run(settings, ask, output).await,
            Verb::Warm(warm) => warm::run(settings, warm, output).await,
            Verb::Ls { model } => ls::run(settings, model, output).await,
            Verb::Evict(evict) => evict::run(settings, evict, output, bars).await,
            Verb::Why { model } => why::run(settings, model, output).await,
            Verb::Restore { model } => keep::restore(settings, model, output).await,
            Verb::Pin { model } => keep::pin(settings, model, true, output).await,
            Verb::Unpin { model } => keep::pin(settings, model, false, output).await,
            Verb::Lease { model, ttl, holder } => keep::lease(settings, model, ttl, holder, output).await,
            Verb::Release { model, holder, all } => keep::release(settings, model, holder, all, output).await,
            Verb::Verify { model, speed, detach } => {
                verify::run(settings, model, speed, detach, output, bars).await
            }
            Verb::Doctor { ready: true, .. } => doctor::ready(&settings, output).await,
            Verb::Doctor { reconcile, .. } => doctor::run(settings, reconcile, output).await,
            Verb::Limit { bandwidth, fleet: true, requests, source, .. } => {
                limit::of_fleet(settings, source, bandwidth, requests, output).await
            }
            Verb::Limit { bandwidth, job, .. } => limit::run(&settings, bandwidth, job, output).await,
            Verb::Hosts { verb } => hosts::run(settings, verb, output).await,
            Verb::Jobs { verb } => jobs::run(settings, verb, output, bars).await,
            Verb::Completions { .. } | Verb::Config { .. } => Ok(OK),
        }
    });
    // A thread that hangs in a dead filesystem must not hold the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    code
}
