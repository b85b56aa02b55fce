//! The configuration: one struct of every room's `Config`, read strictly from layers that remember where a
//! bad value came from.
//!
//! Flags over `LARDER__SECTION__KEY` over the file over `config/default.toml`, which is compiled in and has
//! every key. The hub's own variables fill only what none of these set (`environment`).

mod environment;
mod layer;
mod problem;
mod show;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format as _, Toml};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::{api, gpu, host, hub, ledger, notify, queue, scout, warm};
use larder_jobs::Reason;

use layer::Layer;

pub use environment::{Environment, Settings};
pub use show::{Shown, show};

/// The compiled-in layer: every key with its default and why.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

/// Every room's configuration, as written by the user.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This host.
    pub host: host::Config,
    /// The job queue.
    pub queue: queue::Config,
    /// The hub and the transfer.
    pub hub: hub::Config,
    /// The model cache.
    pub cache: ledger::Config,
    /// larder's own records.
    pub state: State,
    /// The GPUs.
    pub gpu: gpu::Config,
    /// What is known of models by name, and whose quantizations are taken.
    pub models: scout::Config,
    /// The HTTP API.
    pub api: api::Config,
    /// Who is told when a job has ended.
    pub notify: notify::Config,
    /// The metrics.
    pub metrics: Metrics,
    /// The log.
    pub log: Log,
    /// Manifests that are looked at on a schedule; none by default.
    #[serde(default)]
    pub warm: Vec<warm::Config>,
}

/// Where larder's own records are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The folder; empty means the user's state folder.
    pub path: String,
}

/// Bounds of the metrics.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Models with a time series of their own.
    pub max_models: usize,
}

/// How the log looks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Human or JSON.
    pub format: LogFormat,
    /// A level, or a filter of the `tracing` crate.
    pub level: String,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Where the layers above the defaults come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that was named by `--config` or `LARDER_CONFIG`; it must exist.
    pub file: Option<PathBuf>,
    /// Keys from flags, as `section.key` and the value's text.
    pub flags: Vec<(String, String)>,
}

impl Config {
    /// Reads all layers.
    ///
    /// # Errors
    /// `invalid_request` naming the key, the source it came from, and the nearest key for a typo.
    pub fn load(sources: &Sources, environment: &Environment) -> Result<Self> {
        let figment = Self::figment(sources, environment)?;
        let mut config: Self = figment.extract().map_err(|error| problem::explain(&error))?;
        config.validate()?;
        let home = environment.home();
        let path = |text: &str| expand(text, home.as_deref()).display().to_string();
        config.api.expand(path);
        if !config.notify.secret_file.is_empty() {
            config.notify.secret_file = path(&config.notify.secret_file);
        }
        if let Some(name) = config.queue.key_with_password()
            && sources.flags.iter().any(|(key, _)| key == name)
        {
            return Err(Error::new(
                Reason::InvalidRequest,
                format!(
                    "{name} has a password on the command line, where every user of this machine can read it"
                ),
                "put the password into a file and name it in queue.password_file",
            ));
        }
        Ok(config)
    }

    /// The layers, the strongest last.
    fn figment(sources: &Sources, environment: &Environment) -> Result<Figment> {
        let mut figment = Figment::from(Toml::string(DEFAULT));
        if let Some(file) = Self::file(sources, environment)? {
            figment = figment.merge(Toml::file_exact(file));
        }
        Ok(figment.merge(Layer::environment(environment)).merge(Layer::flags(&sources.flags)))
    }

    /// The configuration file that applies, if any.
    ///
    /// # Errors
    /// `invalid_request` if a file was named and is not there.
    pub fn file(sources: &Sources, environment: &Environment) -> Result<Option<PathBuf>> {
        let named = sources.file.clone().or_else(|| environment.var("LARDER_CONFIG").map(PathBuf::from));
        if let Some(path) = named {
            if path.is_file() {
                return Ok(Some(path));
            }
            return Err(Error::new(
                Reason::InvalidRequest,
                format!("the configuration file {} is not there", path.display()),
                "correct --config or LARDER_CONFIG, or leave it out to run with defaults",
            ));
        }
        let candidates = [
            Some(PathBuf::from("larder.toml")),
            environment.config_home().map(|home| home.join("larder/larder.toml")),
            Some(PathBuf::from("/etc/larder/larder.toml")),
        ];
        Ok(candidates.into_iter().flatten().find(|path| path.is_file()))
    }

    /// Refuses nonsense, naming the key.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn validate(&self) -> Result<()> {
        self.queue.validate()?;
        self.hub.validate()?;
        self.cache.validate()?;
        self.gpu.validate()?;
        self.api.validate()?;
        self.notify.validate()?;
        for (n, warm) in self.warm.iter().enumerate() {
            warm.validate()
                .map_err(|error| Error::new(error.reason(), format!("warm[{n}].{error}"), error.hint()))?;
        }
        tracing_subscriber::EnvFilter::try_new(&self.log.level).map(|_| ()).map_err(|error| {
            invalid("log.level", &self.log.level, &error.to_string(), "use error, warn, info, debug or trace")
        })
    }
}

/// A value that a room's `validate` refuses.
fn invalid(key: &str, value: &str, why: &str, hint: &str) -> Error {
    Error::new(Reason::InvalidRequest, format!("{key} = \"{value}\" is not valid: {why}"), hint)
}

/// A path from the configuration, with `~` for the home folder.
fn expand(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_owned(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_jobs::Bandwidth;

    fn load(text: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config> {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("larder.toml");
        std::fs::write(&file, text).expect("writes");
        let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Config::load(&Sources { file: Some(file), flags }, &Environment::of(variables))
    }

    #[test]
    fn the_defaults_are_complete_and_valid() {
        let config = load("", &[], &[]).expect("defaults");
        assert_eq!(config.queue.max_attempts, 8);
        assert_eq!(config.api.listen, "127.0.0.1:7717");
    }

    #[test]
    fn flags_win_over_variables_over_the_file() {
        let file = "[queue]\nmax_attempts = 2\nmax_queued = 7\n[host]\nname = 'file'";
        let variables = [
            ("LARDER__QUEUE__MAX_ATTEMPTS", "3"),
            ("LARDER__HOST__NAME", "42"),
            ("LARDER__QUEUE__CONCURRENCY__DOWNLOAD", "9"),
        ];
        let config = load(file, &variables, &[("queue.max_attempts", "4")]).expect("loads");
        assert_eq!((config.queue.max_attempts, config.queue.max_queued), (4, 7));
        assert_eq!((config.host.name.as_str(), config.queue.concurrency.download), ("42", 9));
    }

    #[test]
    fn a_typo_is_refused_with_the_nearest_name() {
        let error = load("[queue]\nmax_atempts = 2", &[], &[]).expect_err("refused");
        assert!(error.to_string().contains("`queue.max_atempts`"), "{error}");
        assert!(error.hint().contains("`queue.max_attempts`"), "{error:?}");
        let error = load("", &[("LARDER__CASHE__ROOT", "/x")], &[]).expect_err("refused");
        assert!(error.hint().contains("`cache`"), "{error:?}");
        assert!(error.to_string().contains("LARDER__CASHE"), "{error}");
    }

    #[test]
    fn a_bad_value_names_key_and_source() {
        for (key, value) in [
            ("queue.max_attempts", "many"),
            ("cache.keep_free", "120%"),
            ("cache.high_watermark", "0%"),
            ("cache.high_watermark", "70%"),
            ("cache.low_watermark", "90"),
            ("cache.low_watermark", "95%"),
            ("cache.capacity", "0"),
            ("cache.capacity", "-5GB"),
            ("cache.min_age", "-1h"),
            ("cache.expire_after", "1h"),
            ("cache.partial_max_age", "1s"),
            ("cache.evict", "everything"),
            ("cache.order", "fifo"),
            ("cache.kubelet_threshold", "100%"),
            ("cache.scrub_every", "1s"),
            ("cache.verify_bandwidth", "0"),
            ("hub.range", "-1"),
            ("hub.bandwidth", "0"),
            ("hub.bandwidth", "0MB"),
            ("hub.bandwidth", "fast"),
            ("hub.bandwidth", "-1"),
            ("queue.lease", "soon"),
            ("log.level", "=="),
            ("queue.max_attempts", "0"),
            ("api.listen", "0.0.0.0:7717"),
            ("hub.endpoint", "ftp://x"),
        ] {
            let error = load("", &[], &[(key, value)]).expect_err(key);
            assert!(error.to_string().contains(key), "{error}");
            assert_eq!(error.reason(), Reason::InvalidRequest);
        }
    }

    #[test]
    fn a_bandwidth_is_a_size_a_number_or_nothing() {
        let bandwidth = |file: &str| load(file, &[], &[]).expect("loads").hub.bandwidth.map(Bandwidth::bytes);
        assert_eq!(bandwidth(""), None);
        assert_eq!(bandwidth("[hub]\nbandwidth = ''"), None);
        assert_eq!(bandwidth("[hub]\nbandwidth = '20MB'"), Some(20_000_000));
        assert_eq!(bandwidth("[hub]\nbandwidth = 5"), Some(5));
        for bad in ["0", "-1", "1.5", "true"] {
            let error = load(&format!("[hub]\nbandwidth = {bad}"), &[], &[]).expect_err(bad);
            assert!(error.to_string().contains("hub.bandwidth"), "{error}");
        }
        let variable = [("LARDER__HUB__BANDWIDTH", "3000000")];
        let config = load("[hub]\nbandwidth = '20MB'", &variable, &[]).expect("loads");
        assert_eq!(config.hub.bandwidth.map(Bandwidth::bytes), Some(3_000_000));
    }

    #[test]
    fn broken_toml_and_a_missing_file_are_told() {
        assert!(load("[queue", &[], &[]).expect_err("refused").to_string().contains("larder.toml"));
        let missing = Sources { file: Some("/nowhere/larder.toml".into()), flags: Vec::new() };
        let error = Config::load(&missing, &Environment::of(&[])).expect_err("refused");
        assert!(error.to_string().contains("/nowhere/larder.toml"));
    }
}
