//! Models as people name them: `owner/name[@revision]`, or a short name of the registry.

use larder_jobs::{Invalid, ModelRef};

use crate::catalogue::Registry;
use crate::config::{Config, Environment, Sources};

/// Reads a model. A short name is looked up among the entries that come with larder, then in those of `models.registry`.
///
/// # Errors
/// As those of a model's name; for a short name that nobody knows the nearest ones.
pub(super) fn model(text: &str) -> Result<ModelRef, Invalid> {
    Registry::builtin().model(text).or_else(|_| registry().model(text))
}

/// The registry with the operator's entries, as far as files and variables tell of them.
fn registry() -> Registry {
    let config = Config::load(&Sources::default(), &Environment::process()).ok();
    config.and_then(|config| config.models.registry().ok()).unwrap_or_else(Registry::builtin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_become_full_ones() {
        assert_eq!(model("gpt2").expect("known").to_string(), "openai-community/gpt2");
        assert_eq!(model("GPT2@main").expect("known").to_string(), "openai-community/gpt2@main");
        assert_eq!(model("own/name").expect("a name").to_string(), "own/name");
        assert!(model("gtp2").expect_err("a typo").hint().contains("gpt2"));
        assert!(model("").is_err());
    }
}
