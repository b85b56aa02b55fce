//! Verbs below verbs: of hosts, jobs and the configuration.

use std::num::NonZeroU32;

use clap::Subcommand;
use larder_jobs::{HostName, Invalid, JobId, Labels, ModelRef, State};

use crate::cli::name::model;

/// A number of requests per second, or no limit.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Requests(pub(in crate::cli) Option<NonZeroU32>);

pub(super) fn requests(text: &str) -> Result<Requests, Invalid> {
    if text == "none" {
        return Ok(Requests(None));
    }
    text.parse().map(|number| Requests(Some(number))).map_err(|_| {
        Invalid::new(format!("`{text}` is not a number of requests per second"), "write 1 or more, or none")
    })
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Hosts {
    /// List the hosts that are there or were lately
    List {
        /// Only those that have this model
        #[arg(long, value_name = "MODEL", value_parser = model)]
        model: Option<ModelRef>,
        /// Only those with these labels, for example zone=a,gpu=h100
        #[arg(long, value_name = "LABELS")]
        labels: Option<Labels>,
    },
    /// Show one host and the models in its cache
    Show {
        /// Its name
        host: HostName,
    },
    /// Let a host take no more jobs; what runs there goes on
    Drain {
        /// Its name
        host: HostName,
        /// Who says so, for people who look at the host
        #[arg(long, value_name = "NAME")]
        requested_by: Option<String>,
    },
    /// Let a host take jobs again
    Undrain {
        /// Its name
        host: HostName,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Jobs {
    /// List jobs, the newest first
    List {
        /// Only in this state
        #[arg(long)]
        state: Option<State>,
        /// Only those that wait for this host of a fleet, or that it took last
        #[arg(long, value_name = "HOST")]
        host: Option<HostName>,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Show one job
    Show {
        /// The job, as larder jobs lists it
        id: JobId,
    },
    /// Cancel a job; fetched bytes are kept
    Cancel {
        /// The job, as larder jobs lists it
        id: JobId,
        /// Take back only this requester's wish
        #[arg(long, value_name = "NAME")]
        requested_by: Option<String>,
    },
    /// Run a failed or cancelled job again
    Retry {
        /// The job, as larder jobs lists it
        id: JobId,
    },
    /// Run every failed job again
    Redrive,
    /// Follow a job until it ends
    Watch {
        /// The job, as larder jobs lists it
        id: JobId,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ConfigVerb {
    /// Print the configuration that applies, every key
    Show {
        /// Print the defaults with their explanations instead
        #[arg(long)]
        default: bool,
    },
    /// Say whether the configuration is valid
    Check,
    /// Print the Redis functions for other languages, for redis-cli -x FUNCTION LOAD REPLACE
    Functions,
}
