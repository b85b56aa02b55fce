//! The worker: plain async handlers, one for each kind of job, and the one file that puts them on apalis.

mod download;
mod evict;
mod hours;
mod night;
mod planned;
mod preload;
mod profile;
mod rate;
mod runtime;
mod verify;
mod view;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use larder_jobs::{Download, JobId};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, blocking};
use crate::hub::Hub;
use crate::keeper::Keeper;
use crate::layout::Cache;
use crate::plan::KeepFree;
use crate::queue::Done;
use crate::scout::Scout;

pub use night::{Occasion, night, night_from_afar};
pub use planned::{Planned, plan};
pub use runtime::run;
pub use view::plan_view;

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where models come from.
    pub hub: Hub,
    /// Where they go.
    pub cache: Cache,
    /// What they need and what this host has.
    pub scout: Scout,
    /// Whether downloads wait while the host is not healthy.
    pub refuses_unhealthy: bool,
    /// Who keeps them and makes room; `None` while only planning.
    pub keeper: Option<Keeper>,
    /// Whether room may be made for a download that does not fit.
    pub may_evict: bool,
    /// What stays free on the cache's disk.
    pub keep_free: KeepFree,
    /// How long a foreground command waits for a hub that it has never reached; a daemon waits for ever.
    pub patience: Option<Patience>,
    /// Fires when the worker should stop; jobs then go back, their bytes stay.
    pub drain: CancellationToken,
}

/// How long somebody in front of the terminal waits for a hub that never answered.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    since: Instant,
    at_most: Duration,
}

impl Patience {
    /// Patience from now on.
    pub fn new(at_most: Duration) -> Self {
        Self { since: Instant::now(), at_most }
    }

    fn is_over(self) -> bool {
        self.since.elapsed() >= self.at_most
    }
}

/// Stages a model, or a variant that `want` allows, without a job.
///
/// # Errors
/// As those of a download job.
pub async fn stage(context: &Context, want: &Download, stop: &CancellationToken) -> Result<Done> {
    let id = JobId::random(Timestamp::now());
    let limit = context.hub.limits().job(id, want.bandwidth);
    download::variant(context, want, download::Earlier::default(), limit, |_, _| {}, stop).await
}

impl Context {
    /// The same for a download that names its token.
    ///
    /// # Errors
    /// `unauthorized` if this host has none of that name.
    fn with_token_of(&self, want: &Download) -> Result<Self> {
        Ok(Self { hub: self.hub.with_token(want.token_ref.as_ref())?, ..self.clone() })
    }

    /// # Errors
    /// `internal` in a context that only plans.
    fn keeper(&self) -> Result<&Keeper> {
        self.keeper.as_ref().ok_or_else(|| Error::internal("a job without a keeper"))
    }
}
