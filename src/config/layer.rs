//! Variables and flags as a layer of the configuration: texts that become numbers or booleans only where the
//! key asks for them.

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::{DEFAULT, Environment};

/// Keys with their texts, and a name for error messages.
pub(super) struct Layer {
    name: &'static str,
    entries: Vec<(Vec<String>, String)>,
}

impl Layer {
    /// Every `LARDER__SECTION__KEY`.
    pub(super) fn environment(environment: &Environment) -> Self {
        let entries = environment
            .prefixed("LARDER__")
            .map(|(key, value)| (key.split("__").map(str::to_ascii_lowercase).collect(), value.to_owned()));
        Self { name: "environment", entries: entries.collect() }
    }

    /// Every `section.key` from the command line.
    pub(super) fn flags(flags: &[(String, String)]) -> Self {
        let entries =
            flags.iter().map(|(key, value)| (key.split('.').map(str::to_owned).collect(), value.clone()));
        Self { name: "command line", entries: entries.collect() }
    }
}

/// The text as the type that the default has, so that a host may be called `42`.
fn typed(path: &[String], text: &str) -> Value {
    let default = path.iter().try_fold(toml_defaults(), |value, key| match value {
        Value::Dict(_, dict) => dict.get(key).cloned(),
        _ => None,
    });
    match default {
        Some(Value::Num(..)) => text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from),
        // A list from one text: `http://a,http://b`.
        Some(Value::Array(..)) => {
            let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
            Value::from(entries.map(Value::from).collect::<Vec<_>>())
        }
        Some(Value::Bool(..)) => text.parse::<bool>().map_or_else(|_| Value::from(text), Value::from),
        _ => Value::from(text),
    }
}

fn toml_defaults() -> Value {
    use figment::providers::{Format as _, Toml};
    // The compiled-in text is parsed by a test; if it were broken, loading would say so first.
    let dict = Toml::string(DEFAULT).data().ok().and_then(|mut profiles| profiles.remove(&Profile::Default));
    Value::from(dict.unwrap_or_default())
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let name = self.name;
        Metadata::named(name).interpolater(move |_, keys| match name {
            "environment" => format!("LARDER__{}", keys.join("__").to_ascii_uppercase()),
            _ => keys.join("."),
        })
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut dict = Dict::new();
        for (path, text) in &self.entries {
            let value = typed(path, text);
            dict = merge(dict, path, value);
        }
        Ok(Profile::Default.collect(dict))
    }
}

fn merge(mut dict: Dict, path: &[String], value: Value) -> Dict {
    match path {
        [] => {}
        [last] => {
            dict.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = match dict.remove(first) {
                Some(Value::Dict(_, inner)) => inner,
                _ => Dict::new(),
            };
            dict.insert(first.clone(), Value::from(merge(inner, rest, value)));
        }
    }
    dict
}
