//! The scout: what a model will need and whether this host, or a card that somebody names, has it; known before the first
//! byte of its weights is fetched.
//!
//! It reads what a repo says about itself (`look`), what others published of the same model (`candidates`), what the
//! GPUs have (`target`), and puts them before `fit`, which decides. Nothing is changed by any of it.

mod ask;
mod calibrate;
mod candidates;
mod choose;
mod evaluate;
mod host;
mod look;
mod planned;
mod size;
mod source;
mod target;
mod view;

use std::sync::Arc;

use serde::Deserialize;

use crate::catalogue::{Cards, Drift, Gated, Registry, RepoFacts};
use crate::error::{Error, Result};
use crate::gpu;
use crate::hub::Hub;
use crate::layout::Cache;
use crate::ledger::Ledger;
use larder_jobs::{Reason, TokenRef};

pub use ask::{EvaluationAsk, FitAsk, MAX_MODELS, PlanAsk, Purpose};
pub use calibrate::Watch;
pub use evaluate::{EvaluationRow, EvaluationView, Loading, Seconds};
pub use host::{HostHistory, HostView, judged};
pub use look::{Looked, Staged};
pub use planned::{PlanView, SkippedFile};
pub use target::{Target, TargetSource};
pub use view::{FindingView, FitView, VariantView};

/// The section `[models]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A file with more models for the registry, in the form of `config/models.toml`; empty means none.
    pub registry: String,
    /// Whose quantizations may be staged in place of a model; its own owner's always may.
    pub publishers: Vec<String>,
}

impl Config {
    /// The registry with the file of the operator, if there is one.
    ///
    /// # Errors
    /// `invalid_request` if the file cannot be read or says something that cannot be.
    pub fn registry(&self) -> Result<Registry> {
        if self.registry.is_empty() {
            return Ok(Registry::builtin());
        }
        let path = std::path::Path::new(&self.registry);
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(
                Reason::InvalidRequest,
                format!("models.registry = \"{}\" cannot be read: {error}", path.display()),
                "name a file in the form of config/models.toml, or leave it empty",
            )
        })?;
        let read = Registry::builtin().with_overlay(&text, &self.registry);
        read.map_err(|error| Error::new(Reason::InvalidRequest, error.to_string(), error.hint()))
    }
}

/// The scout of one host; clones are the same.
#[derive(Debug, Clone)]
pub struct Scout {
    hub: Hub,
    cache: Cache,
    registry: Arc<Registry>,
    cards: Arc<Cards>,
    publishers: Arc<[String]>,
    /// The GPUs that a thread of this process watches; without one they are looked at when somebody asks.
    watched: Option<gpu::Handle>,
    gpu_config: gpu::Config,
    /// What was measured on this host, if its records are open.
    ledger: Option<Arc<Ledger>>,
}

impl Scout {
    /// A scout that asks `hub` and knows of this host what a look at its GPUs tells.
    ///
    /// # Errors
    /// As [`Config::registry`].
    pub fn new(hub: Hub, cache: Cache, config: &Config, gpu_config: gpu::Config) -> Result<Self> {
        Ok(Self {
            hub,
            cache,
            registry: Arc::new(config.registry()?),
            cards: Arc::new(Cards::builtin()),
            publishers: config.publishers.clone().into(),
            watched: None,
            gpu_config,
            ledger: None,
        })
    }

    /// The same with what this host has measured, and with GPUs that are watched all the time.
    #[must_use]
    pub fn on_host(self, ledger: Arc<Ledger>, watched: Option<gpu::Handle>) -> Self {
        Self { ledger: Some(ledger), watched, ..self }
    }

    /// Whether this host has the token of that name.
    ///
    /// # Errors
    /// `unauthorized` if not, with those that it has.
    pub fn knows_token(&self, name: Option<&TokenRef>) -> Result<()> {
        self.hub.with_token(name).map(drop)
    }

    /// The models that are known by name.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The cards that are known by name.
    pub fn cards(&self) -> &Cards {
        &self.cards
    }

    /// Where the registry is wrong about a repo.
    fn drift(&self, looked: &Looked) -> Vec<Drift> {
        let Some(entry) = self.registry.get(looked.repo.as_str()) else { return Vec::new() };
        entry.drift(&RepoFacts {
            config: looked.config.as_ref(),
            parameters: looked.parameters,
            licence: looked.licence.as_deref(),
            gated: (!looked.gated).then_some(Gated::No),
        })
    }
}
