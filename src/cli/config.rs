//! `larder config`: what applies, and whether it is valid.

use larder_jobs::client::LIBRARY;
use serde_json::json;

use super::OK;
use super::args::ConfigVerb;
use super::output::Output;
use crate::config::{self, DEFAULT, Environment, Settings, Sources};
use crate::error::Result;

pub(super) fn run(verb: &ConfigVerb, sources: &Sources, output: &Output) -> Result<u8> {
    if let ConfigVerb::Show { default: true } = verb {
        output.line(DEFAULT.trim_end());
        return Ok(OK);
    }
    if let ConfigVerb::Functions = verb {
        output.line(LIBRARY.trim_end());
        return Ok(OK);
    }
    let environment = Environment::process();
    match verb {
        ConfigVerb::Functions => {}
        ConfigVerb::Show { .. } => {
            let shown = config::show(sources, &environment)?;
            output.print(&shown, || shown.iter().map(config::Shown::line).collect::<Vec<_>>().join("\n"))?;
        }
        ConfigVerb::Check => {
            let settings = Settings::load(sources, &environment)?;
            let file = settings.file.map(|file| file.display().to_string());
            let from = file.clone().unwrap_or_else(|| "no file, defaults".into());
            output.print(&json!({"valid": true, "file": file}), || {
                format!("the configuration is valid ({from})")
            })?;
        }
    }
    Ok(OK)
}
