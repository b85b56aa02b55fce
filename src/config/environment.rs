//! What the surroundings add: home folders, and the hub's own variables, which fill only what nothing else set.
//!
//! The rules are those of Python's `huggingface_hub` (`constants.py`), so that larder and `hf download` on one
//! host agree about cache, token, endpoint and offline mode.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Config, Sources, expand};
use crate::error::{Error, Result};
use crate::hub::{self, Token, Tokens};
use larder_jobs::client::Address;
use larder_jobs::{HostName, Reason};

/// The public hub.
const PUBLIC_HUB: &str = "https://huggingface.co";

/// The process's environment variables.
#[derive(Debug, Clone)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The variables of this process; those that are not UTF-8 cannot be ours and are left out.
    pub fn process() -> Self {
        let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((key.into_string().ok()?, value.into_string().ok()?))
        };
        Self { variables: std::env::vars_os().filter_map(text).collect() }
    }

    /// These variables only.
    pub fn of(variables: &[(&str, &str)]) -> Self {
        Self {
            variables: variables
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn prefixed(&self, prefix: &'static str) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_str())))
    }

    /// `huggingface_hub` takes these words for true.
    fn is_true(&self, name: &str) -> bool {
        self.var(name)
            .is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.var(name).map(|text| expand(text, self.home().as_deref()))
    }

    pub(super) fn home(&self) -> Option<PathBuf> {
        self.var("HOME").map(PathBuf::from).or_else(|| etcetera::home_dir().ok())
    }

    fn xdg(&self, name: &str, below_home: &str) -> Option<PathBuf> {
        self.path(name).filter(|path| path.is_absolute()).or_else(|| Some(self.home()?.join(below_home)))
    }

    pub(super) fn config_home(&self) -> Option<PathBuf> {
        self.xdg("XDG_CONFIG_HOME", ".config")
    }

    fn hf_home(&self) -> PathBuf {
        self.path("HF_HOME")
            .or_else(|| Some(self.xdg("XDG_CACHE_HOME", ".cache")?.join("huggingface")))
            .unwrap_or_else(|| PathBuf::from("/var/cache/huggingface"))
    }

    fn cache_root(&self, configured: &str) -> PathBuf {
        if configured.is_empty() {
            return self
                .path("HF_HUB_CACHE")
                .or_else(|| self.path("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| self.hf_home().join("hub"));
        }
        expand(configured, self.home().as_deref())
    }

    fn state_dir(&self, configured: &str) -> PathBuf {
        if configured.is_empty() {
            return self
                .xdg("XDG_STATE_HOME", ".local/state")
                .map_or_else(|| PathBuf::from("/var/lib/larder"), |state| state.join("larder"));
        }
        expand(configured, self.home().as_deref())
    }

    /// The token: the configured file, `HF_TOKEN`, the file of `HF_TOKEN_PATH`, the file of `hf auth login`.
    fn token(&self, configured: &str) -> Result<Option<Token>> {
        if !configured.is_empty() {
            return Token::from_file(&expand(configured, self.home().as_deref())).map(Some);
        }
        if self.is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return Ok(None);
        }
        if let Some(token) = self.var("HF_TOKEN").or_else(|| self.var("HUGGING_FACE_HUB_TOKEN")) {
            return Token::new(token).map(Some);
        }
        let file = self.path("HF_TOKEN_PATH").unwrap_or_else(|| self.hf_home().join("token"));
        if file.is_file() { Token::from_file(&file).map(Some) } else { Ok(None) }
    }
}

impl Environment {
    /// The tokens of the hub and of each mirror.
    fn tokens(&self, hub: &hub::Config) -> Result<Tokens> {
        let of_mirror = |mirror: &hub::Mirror| match mirror.token_file.as_str() {
            "" => Ok(None),
            file => Token::from_file(&expand(file, self.home().as_deref())).map(Some),
        };
        let mirrors = hub.endpoints.iter().map(of_mirror).collect::<Result<_>>()?;
        let named = hub.tokens.iter().map(|token| {
            let file = expand(&token.file, self.home().as_deref());
            Ok((token.name.clone(), Token::from_file(&file)?))
        });
        Ok(Tokens { endpoint: self.token(&hub.token_file)?, mirrors, named: named.collect::<Result<_>>()? })
    }

    /// Where the fleet's queue is, with the password from its file.
    fn fleet(&self, config: &Config) -> Result<Option<(Address, HostName)>> {
        let queue = &config.queue;
        let Some(mut address) = queue.address()? else { return Ok(None) };
        let host = config.host.name.parse().map_err(|invalid: larder_jobs::Invalid| {
            Error::new(Reason::InvalidRequest, format!("host.name: {invalid}"), invalid.hint())
        })?;
        let secret = |key: &str, file: &str| match file {
            "" => Ok(None),
            file => password(key, &expand(file, self.home().as_deref())).map(Some),
        };
        let password = secret("queue.password_file", &queue.password_file)?;
        if password.is_some() || !queue.username.is_empty() {
            address = address.with_login(&queue.username, password.as_deref());
        }
        let password = secret("queue.sentinel_password_file", &queue.sentinel_password_file)?;
        if password.is_some() || !queue.sentinel_username.is_empty() {
            address = address.with_sentinel_login(&queue.sentinel_username, password.as_deref());
        }
        if !queue.ca_file.is_empty() {
            address = address.with_ca(&expand(&queue.ca_file, self.home().as_deref()))?;
        }
        Ok(Some((address, host)))
    }
}

/// The first line of a file that holds a password.
fn password(key: &str, file: &Path) -> Result<String> {
    let wrong = |why: String| {
        let what = format!("{key} {}: {why}", file.display());
        Error::new(Reason::InvalidRequest, what, "name a file whose first line is the password")
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    match text.lines().next().map(str::trim) {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => Err(wrong("there is no password in it".into())),
    }
}

/// The configuration with everything filled in: absolute folders, the endpoint, the token.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configuration; `hub.endpoint`, `hub.offline` and `host.name` are filled in.
    pub config: Config,
    /// The hub cache.
    pub cache_root: PathBuf,
    /// The folder of larder's own records.
    pub state_dir: PathBuf,
    /// The access tokens of the hub and its mirrors.
    pub tokens: Tokens,
    /// The fleet's queue and this host's name in it; `None` on a machine of its own.
    pub fleet: Option<(Address, HostName)>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

impl Settings {
    /// Reads the configuration and fills in what only the surroundings know.
    ///
    /// # Errors
    /// As [`Config::load`], or a token file that cannot be read.
    pub fn load(sources: &Sources, environment: &Environment) -> Result<Self> {
        let mut config = Config::load(sources, environment)?;
        if config.hub.endpoint.is_empty() {
            config.hub.endpoint = environment.var("HF_ENDPOINT").unwrap_or(PUBLIC_HUB).to_owned();
            hub::check_endpoint(&config.hub.endpoint)?;
        }
        config.hub.endpoint = config.hub.endpoint.trim_end_matches('/').to_owned();
        config.hub.offline |=
            environment.is_true("HF_HUB_OFFLINE") || environment.is_true("TRANSFORMERS_OFFLINE");
        if config.host.name.is_empty() {
            config.host.name = crate::host::name();
        }
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Ok(Self {
            cache_root: absolute(environment.cache_root(&config.cache.root)),
            state_dir: absolute(environment.state_dir(&config.state.path)),
            tokens: environment.tokens(&config.hub)?,
            fleet: environment.fleet(&config)?,
            file: Config::file(sources, environment)?,
            config,
        })
    }

    /// The socket on which the owner of the state folder serves the API.
    pub fn socket(&self) -> PathBuf {
        socket(&self.state_dir)
    }
}

/// The socket of a state folder.
fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("larder.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_hubs_own_client_has_it() {
        let root =
            |variables: &[(&str, &str)], configured: &str| Environment::of(variables).cache_root(configured);
        let home = ("HOME", "/home/u");
        assert_eq!(root(&[home], ""), Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(root(&[home, ("XDG_CACHE_HOME", "/x")], ""), Path::new("/x/huggingface/hub"));
        assert_eq!(root(&[home, ("HF_HOME", "~/hf")], ""), Path::new("/home/u/hf/hub"));
        assert_eq!(root(&[home, ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], ""), Path::new("/c"));
        assert_eq!(root(&[home, ("HF_HUB_CACHE", "/c")], "~/mine"), Path::new("/home/u/mine"));
    }

    #[test]
    fn tokens_are_found_in_order_and_can_be_turned_off() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("token"), "hf_file\n").expect("writes");
        let home = ("HF_HOME", dir.path().to_str().expect("utf-8"));
        let secret = |variables: &[(&str, &str)]| {
            let token = Environment::of(variables).token("").expect("reads");
            token.map(|token| token.secret().to_owned())
        };
        assert_eq!(secret(&[home]).as_deref(), Some("hf_file"));
        assert_eq!(secret(&[home, ("HF_TOKEN", " hf_env ")]).as_deref(), Some("hf_env"));
        assert_eq!(secret(&[home, ("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert!(Environment::of(&[]).token("/nowhere/token").is_err());
    }

    #[test]
    fn offline_and_endpoint_fill_only_what_is_not_set() {
        let load = |variables: &[(&str, &str)]| {
            Settings::load(&Sources::default(), &Environment::of(variables)).expect("loads").config.hub
        };
        assert_eq!(load(&[("HOME", "/nowhere")]).endpoint, PUBLIC_HUB);
        let both = [("HOME", "/nowhere"), ("HF_ENDPOINT", "http://a/"), ("HF_HUB_OFFLINE", "1")];
        assert_eq!((load(&both).endpoint.as_str(), load(&both).offline), ("http://a", true));
        let ours = [("HOME", "/nowhere"), ("HF_ENDPOINT", "http://a"), ("LARDER__HUB__ENDPOINT", "http://b")];
        assert_eq!(load(&ours).endpoint, "http://b");
    }
}
