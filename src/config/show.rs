//! The configuration that applies, key by key, with where each value comes from.

use figment::value::{Dict, Value};
use serde::Serialize;

use super::{Config, Environment, Settings, Sources};
use crate::error::{Error, Result};

/// One key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shown {
    /// `section.key`.
    pub key: String,
    /// The value that applies.
    pub value: serde_json::Value,
    /// Where it comes from: `default`, a file, `environment`, `command line`, one of the hub's own
    /// variables, or `this host`.
    pub source: String,
}

impl Shown {
    /// The key as a line of TOML.
    pub fn line(&self) -> String {
        format!("{} = {}  # {}", self.key, self.value, self.source)
    }
}

/// Every key, in order of its name. Secrets are not part of the configuration, only the files that hold them.
///
/// # Errors
/// As [`Settings::load`].
pub fn show(sources: &Sources, environment: &Environment) -> Result<Vec<Shown>> {
    let settings = Settings::load(sources, environment)?;
    let figment = Config::figment(sources, environment)?;
    let dict: Dict = figment.extract().map_err(|error| super::problem::explain(&error))?;
    let mut keys = Vec::new();
    flatten("", &dict, &mut keys);
    let mut shown = Vec::with_capacity(keys.len());
    for (key, value) in keys {
        let source = figment.find_metadata(&key).map_or_else(
            || "default".to_owned(),
            |metadata| {
                let place = metadata.source.as_ref().map(ToString::to_string);
                match &*metadata.name {
                    "environment" | "command line" => metadata.name.clone().into_owned(),
                    _ => place.unwrap_or_else(|| "default".to_owned()),
                }
            },
        );
        let value = serde_json::to_value(&value).map_err(|error| Error::internal(error.to_string()))?;
        shown.push(filled_in(Shown { key, value, source }, &settings, environment));
    }
    Ok(shown)
}

/// Empty means that the surroundings decide; then their word is shown.
fn filled_in(shown: Shown, settings: &Settings, environment: &Environment) -> Shown {
    let config = &settings.config;
    let value = match shown.key.as_str() {
        "cache.root" => serde_json::json!(settings.cache_root),
        "host.name" => serde_json::json!(config.host.name),
        "hub.endpoint" => serde_json::json!(config.hub.endpoint),
        "hub.offline" => serde_json::json!(config.hub.offline),
        "state.path" => serde_json::json!(settings.state_dir),
        // It may carry a password.
        "queue.url" => return Shown { value: serde_json::json!(config.queue.url.hidden()), ..shown },
        "queue.urls" => {
            let urls: Vec<_> = config.queue.urls.iter().map(crate::queue::Url::hidden).collect();
            return Shown { value: serde_json::json!(urls), ..shown };
        }
        _ => return shown,
    };
    if value == shown.value {
        return shown;
    }
    let variables: &[&str] = match shown.key.as_str() {
        "cache.root" => &["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"],
        "hub.endpoint" => &["HF_ENDPOINT"],
        "hub.offline" => &["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"],
        _ => &[],
    };
    let source = if shown.value == "" || shown.value == false {
        (*variables.iter().find(|name| environment.var(name).is_some()).unwrap_or(&"this host")).to_owned()
    } else {
        shown.source
    };
    Shown { value, source, ..shown }
}

fn flatten(prefix: &str, dict: &Dict, out: &mut Vec<(String, Value)>) {
    for (key, value) in dict {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Dict(_, inner) => flatten(&key, inner, out),
            value => out.push((key, value.clone())),
        }
    }
}
