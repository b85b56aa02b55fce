//! The download job: which model, which of its files, and what to do with it afterwards.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Bandwidth, Glob, Invalid, ModelRef, RepoId, Revision, Span, TokenRef, Variant, Windows};

/// Most patterns of one kind that a job may carry.
const MAX_GLOBS: usize = 64;

/// Shortest and longest lease on a model.
pub const MIN_LEASE: Duration = Duration::from_secs(1);
/// See [`MIN_LEASE`].
pub const MAX_LEASE: Duration = Duration::from_secs(366 * 86_400);

/// Which weight format to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Format {
    /// Safetensors where the repo has them, else GGUF, else pickle if it is allowed.
    #[default]
    Auto,
    /// Safetensors only.
    Safetensors,
    /// GGUF only.
    Gguf,
    /// Pickled PyTorch weights; needs `allow_unsafe`, since loading them runs code.
    Pickle,
}

impl Format {
    /// The word, as in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Format::Auto => "auto",
            Format::Safetensors => "safetensors",
            Format::Gguf => "gguf",
            Format::Pickle => "pickle",
        }
    }
}

/// Stage one revision of one model into the hub cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Download {
    /// The repo, `owner/name`.
    pub repo: RepoId,
    /// Branch, tag, `refs/pr/N` or commit; `main` if absent.
    #[serde(default)]
    pub revision: Revision,
    /// Only files that match one of these; every file if empty. Overrides the choice of one weight format.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<Glob>,
    /// No file that matches one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Glob>,
    /// Which weight format to fetch.
    #[serde(default, skip_serializing_if = "is_default")]
    pub format: Format,
    /// Whether a published quantization may be staged instead, and which.
    #[serde(default, skip_serializing_if = "is_default")]
    pub variant: Variant,
    /// Never evict the staged revision until it is unpinned.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pin: bool,
    /// Accept weights whose loading runs code (pickle) when nothing safer is there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_unsafe: bool,
    /// Bytes per second that the job may take of the network; without it only the host's limit holds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bandwidth: Option<Bandwidth>,
    /// The hours in which bytes may come, `22:00-06:00 Europe/Berlin`, several with `; ` between them. Outside of them the
    /// job waits with `outside_window`, which spends no attempt, and keeps its bytes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub window: Option<Windows>,
    /// Bytes per second outside the window; without it nothing comes then. All jobs of a host that have the same window
    /// and the same rates share them: this one, and `bandwidth` within the window.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bandwidth_outside: Option<Bandwidth>,
    /// Nobody evicts the staged revision for so long after it is ready, unless the lease is released before; held by
    /// `requested_by`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lease_ttl: Option<Span>,
    /// The name of the access token that the hub is asked with, as the host's `[[hub.tokens]]` calls it; without it the
    /// host's own. The token itself is never part of a job.
    #[serde(default, skip_serializing_if = "is_default")]
    pub token_ref: Option<TokenRef>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Download {
    pub(crate) const FIELDS: &'static [&'static str] = &[
        "repo",
        "revision",
        "include",
        "exclude",
        "format",
        "variant",
        "pin",
        "allow_unsafe",
        "bandwidth",
        "window",
        "bandwidth_outside",
        "lease_ttl",
        "token_ref",
    ];

    /// A plain download of `model` with every default.
    pub fn new(model: ModelRef) -> Self {
        Self {
            revision: model.revision().cloned().unwrap_or_default(),
            repo: model.repo().clone(),
            include: Vec::new(),
            exclude: Vec::new(),
            format: Format::Auto,
            variant: Variant::Exact,
            pin: false,
            allow_unsafe: false,
            bandwidth: None,
            window: None,
            bandwidth_outside: None,
            lease_ttl: None,
            token_ref: None,
        }
    }

    /// The model at the revision as asked for.
    pub fn model(&self) -> ModelRef {
        ModelRef::new(self.repo.clone(), Some(self.revision.clone()))
    }

    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// Too many patterns, or `format = "pickle"` without `allow_unsafe`.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.include.len() > MAX_GLOBS || self.exclude.len() > MAX_GLOBS {
            return Err(Invalid::new(
                "the job has more than 64 patterns in `include` or `exclude`",
                "use fewer, wider patterns",
            ));
        }
        self.variant.validate()?;
        if self.variant != Variant::Exact && !(self.include.is_empty() && self.format == Format::Auto) {
            return Err(Invalid::new(
                "`variant` chooses the files, and so do `include` and `format`",
                "leave them out, or send \"variant\": \"exact\"",
            ));
        }
        if self.format == Format::Pickle && !self.allow_unsafe {
            return Err(Invalid::new(
                "format `pickle` is asked for, but loading pickled weights runs code from the repo",
                "set allow_unsafe (--allow-unsafe) if you trust it, or choose safetensors",
            ));
        }
        if self.bandwidth_outside.is_some() && self.window.is_none() {
            return Err(Invalid::new(
                "`bandwidth_outside` is set, but there is no `window` to be outside of",
                "add \"window\": \"22:00-06:00 Europe/Berlin\", or set `bandwidth`",
            ));
        }
        if self.lease_ttl.is_some_and(|ttl| ttl.get() < MIN_LEASE || ttl.get() > MAX_LEASE) {
            return Err(Invalid::new(
                "`lease_ttl` is not between 1s and 366 days",
                "set for example 2h, and renew the lease while the model is needed",
            ));
        }
        Ok(())
    }

    /// The want: two downloads with the same want are the same job while one of them is in flight.
    ///
    /// Pins, limits and who asked do not count; the order of patterns does not either.
    pub fn want(&self) -> String {
        let sorted = |globs: &[Glob]| {
            let mut texts: Vec<_> = globs.iter().map(Glob::as_str).collect();
            texts.sort_unstable();
            texts.dedup();
            serde_json::json!(texts)
        };
        let mut want = serde_json::json!([
            "download",
            self.repo,
            self.revision,
            sorted(&self.include),
            sorted(&self.exclude),
            self.format,
            self.allow_unsafe,
        ]);
        // Wants that were hashed before there were variants stay the same.
        if let (false, Some(parts)) = (self.variant == Variant::Exact, want.as_array_mut()) {
            parts.push(serde_json::json!(self.variant));
        }
        // Whoever may read a model with one token may not with another.
        if let (Some(token), Some(parts)) = (&self.token_ref, want.as_array_mut()) {
            parts.push(serde_json::json!({ "token": token }));
        }
        want.to_string()
    }
}
