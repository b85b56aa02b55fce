//! The letterbox of larder: everything that another program must know to put a job into the queue
//! and to understand what came of it.
//!
//! An orchestrator depends on this crate and never on the server. So it stays light (names, states,
//! reasons, payloads, no I/O) and its words only grow: the golden files under `jobs/golden` hold every
//! shape that ever went over the wire.
//!
//! ```
//! use larder_jobs::{Job, ModelRef};
//!
//! let model: ModelRef = "openai-community/gpt2@main".parse()?;
//! let job = Job::download(model);
//! assert_eq!(
//!     serde_json::to_value(&job)?,
//!     serde_json::json!({"v": 1, "kind": "download", "repo": "openai-community/gpt2", "revision": "main"}),
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
#[cfg(feature = "client")]
pub mod client;
mod cursor;
mod download;
mod evict;
mod file;
mod fleet;
mod glob;
mod host;
mod hosts;
mod id;
mod invalid;
mod job;
mod labels;
mod limits;
mod model;
mod problem;
mod profile;
mod quantity;
mod reason;
mod record;
mod state;
mod token;
mod variant;
mod verify;
mod view;
mod window;

pub use batch::{Batch, Ended, MAX_BATCH};
pub use cursor::Cursor;
pub use download::{Download, Format, MAX_LEASE, MIN_LEASE};
pub use evict::{CameBack, Evict, EvictedModel};
pub use file::{Digest, FilePath, RepoFile};
pub use fleet::{
    Drain, HOST_RECORD_VERSION, HeldModel, HostDisk, HostGpu, HostHealth, HostRecord, HostState, MAX_FIRST,
    Presence,
};
pub use glob::Glob;
pub use host::{HostName, Target};
pub use hosts::Hosts;
pub use id::JobId;
pub use invalid::Invalid;
pub use job::{Common, Job, MAX_PAYLOAD, VERSION, Work};
pub use labels::Labels;
pub use limits::{
    FleetLimits, FleetLimitsChange, MAX_LIMITED_SOURCES, SourceLimits, SourceLimitsChange, SourceName,
};
pub use model::{CommitId, ModelRef, RepoId, Revision};
pub use problem::Problem;
pub use profile::{Preload, Profile, ProfileTarget, Test};
pub use quantity::{Bandwidth, Size, Span};
pub use reason::{Class, Reason};
pub use record::{RECORD_VERSION, Record};
pub use state::{Kind, State};
pub use token::TokenRef;
pub use variant::{ChosenVariant, Variant, VariantWord};
pub use verify::Verify;
pub use view::{ChildView, FileProgress, JobView, Progress};
pub use window::{MAX_WINDOWS, Phase, Window, Windows, Zone};
