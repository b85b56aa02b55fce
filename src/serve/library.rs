//! larder as a library: the house without its command line, for programs that stage, judge and evict by themselves.

use larder_jobs::{ChosenVariant, Download, Evict, ModelRef, Size, Variant};
use tokio_util::sync::CancellationToken;

use super::House;
use crate::error::{Result, blocking};
use crate::keeper::Outcome;
use crate::ledger::ModelView;
use crate::scout::HostView;
use crate::worker;

/// What was staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedModel {
    /// The snapshot folder.
    pub path: String,
    /// The variant and why that one, if others than the model itself were allowed.
    pub chosen: Option<ChosenVariant>,
}

/// ```
/// use larder::config::{Environment, Settings, Sources};
/// use larder::queue::Scope;
/// use larder::serve::House;
/// use larder_jobs::Variant;
///
/// # let hub = support::Hub::start();
/// # hub.add(support::models::tiny_gpt2(1, 20_000));
/// # let (folder, endpoint) = (tempfile::tempdir()?, hub.endpoint());
/// # let folder = folder.path().display();
/// let set = |key: &str, value: String| (key.to_owned(), value);
/// let flags = vec![
///     set("hub.endpoint", endpoint),
///     set("cache.root", format!("{folder}/hub")),
///     set("cache.min_age", "0s".into()),
///     set("state.path", format!("{folder}/state")),
/// ];
/// let settings = Settings::load(&Sources { file: None, flags }, &Environment::of(&[]))?;
/// # let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let house = House::open(settings, Scope::Own).await?;
///
/// // What this host has: cards, memory, disk.
/// let host = house.constraints().await?;
/// assert!(host.facts.memory.total > Some(0));
///
/// // The best variant that fits; of which host there is no GPU, the model itself.
/// let staged = house.download_with_fallback("test/tiny-gpt2-1".parse()?, Variant::Auto).await?;
/// assert!(staged.path.contains("models--test--tiny-gpt2-1"));
/// assert_eq!(house.list_cached().len(), 1);
///
/// // What was used least recently goes until that much is free.
/// let outcome = house.evict_lru(1_000).await?;
/// assert!(outcome.freed >= 1_000 && house.list_cached().is_empty());
/// # Ok::<(), larder::error::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl House {
    /// What this host has for models: GPUs, memory, disk, and whether it is fit for work.
    ///
    /// # Errors
    /// As [`crate::scout::Scout::host`].
    pub async fn constraints(&self) -> Result<HostView> {
        self.api.scout.host(&self.api.host).await
    }

    /// The models in the cache.
    pub fn list_cached(&self) -> Vec<ModelView> {
        self.keeper.ledger().shelf().views(jiff::Timestamp::now())
    }

    /// Stages a model, or the variant of it that `variant` allows and this host's GPU can run, without a job.
    ///
    /// # Errors
    /// As those of a download job.
    pub async fn download_with_fallback(&self, model: ModelRef, variant: Variant) -> Result<StagedModel> {
        let want = Download { variant, ..Download::new(model) };
        want.validate()?;
        let stop = CancellationToken::new();
        let done = worker::stage(&self.context(stop.clone()), &want, &stop).await?;
        let chosen = done.progress.chosen.map(|chosen| *chosen);
        Ok(StagedModel { path: done.path.unwrap_or_default(), chosen })
    }

    /// Evicts models by the rules of the configuration, the least recently used first unless `cache.order` says otherwise,
    /// until `bytes` more are free or nothing more may go.
    ///
    /// # Errors
    /// `io_error`. That too little became free is told by the outcome.
    pub async fn evict_lru(&self, bytes: u64) -> Result<Outcome> {
        let keeper = self.keeper.clone();
        let wanted = Evict { free_bytes: Some(Size(bytes)), ..Evict::default() };
        blocking(move || {
            let goal = keeper.goal(&wanted, jiff::Timestamp::now())?;
            keeper.evict(&goal, &|| false)
        })
        .await
    }
}
