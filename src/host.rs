//! This host: its name.

use serde::Deserialize;

/// This host, as the user names it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name that jobs and reports show; empty means the system's host name.
    pub name: String,
}

/// The system's host name.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
