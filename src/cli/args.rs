//! What can be typed.

mod nested;

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use larder_jobs::{
    Bandwidth, Format, Glob, Invalid, Job, JobId, ModelRef, Size, SourceName, Span, Test, TokenRef, Variant,
    Windows, Work,
};

use super::name::model;
use crate::catalogue::Category;
use crate::error::{self, Error};
use crate::fit::Engine;

use nested::requests;
pub(super) use nested::{ConfigVerb, Hosts, Jobs, Requests};

/// Keeps a GPU host stocked with models: verified, resumable, in the standard Hugging Face cache.
#[derive(Debug, Parser)]
#[command(name = "larder", version, arg_required_else_help = true, max_term_width = 100)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Group)]
#[command(next_help_heading = "Everywhere")]
pub(super) struct Common {
    /// Configuration file [default: the first of ./larder.toml, ~/.config/larder/larder.toml, /etc/larder/larder.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Set a configuration key for this run, for example --set hub.connections=32
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Talk to the larder at this address instead of this host's
    #[arg(long, global = true, value_name = "URL")]
    api_url: Option<String>,
    /// Print JSON on stdout
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print exact bytes instead of MiB and GiB
    #[arg(long, global = true)]
    pub(super) bytes: bool,
    /// Print the log of what happens, at log.level
    #[arg(long, short, global = true)]
    pub(super) verbose: bool,
}

impl Common {
    /// The flags as configuration keys.
    pub(super) fn settings(&self) -> error::Result<Vec<(String, String)>> {
        let mut settings = Vec::new();
        for pair in &self.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Error::from(Invalid::new(
                    format!("--set {pair} has no value"),
                    "write --set section.key=value, for example --set hub.connections=32",
                ))
            })?;
            settings.push((key.trim().to_owned(), value.to_owned()));
        }
        settings.extend(self.api_url.iter().map(|url| ("api.url".to_owned(), url.clone())));
        Ok(settings)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Work off the queue, keep the records, serve the API and the metrics
    Serve,
    /// Fetch a model into the hub cache and wait until it is verified
    Stage(Stage),
    /// Show what staging a model would do (the same as stage --dry-run), or what evaluating several takes
    Plan {
        #[command(flatten)]
        several: Several,
        #[command(flatten)]
        choice: FileChoice,
        #[command(flatten)]
        on: On,
    },
    /// Say whether a model fits on a GPU, and at which quantization
    Fit {
        #[command(flatten)]
        want: Want,
        #[command(flatten)]
        on: On,
    },
    /// List the models that are known by name
    Models {
        /// Show all that is known of this one
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// Only of this category: tiny, coding, general or instruct
        #[arg(long, value_name = "NAME")]
        category: Option<Category>,
        /// Only those that fit on this card as they are published
        #[arg(long, value_name = "GPU")]
        fits: Option<String>,
        /// List the cards instead
        #[arg(long)]
        cards: bool,
    },
    /// Show this host's hardware, and whether it is fit for work
    Info,
    /// Measure this host, or look closely at a model in its cache
    Profile {
        /// The model, also by a short name; without one the host
        #[arg(value_name = "MODEL", value_parser = model)]
        model: Option<ModelRef>,
        /// What of the host to measure: disk, memory, hub; may be repeated [default: all]
        #[arg(long = "test", value_name = "NAME", value_enum)]
        tests: Vec<TestArg>,
        /// Size of the file with which the disk is measured [default: 1GiB]
        #[arg(long, value_name = "SIZE")]
        disk_bytes: Option<Size>,
        /// Return once the job is accepted; a running larder does it
        #[arg(long)]
        detach: bool,
    },
    /// Bring a model's files into memory, if that gains something and memory is free
    Preload {
        /// The model, owner/name or owner/name@revision
        #[arg(value_name = "MODEL", value_parser = model)]
        model: ModelRef,
        /// Also when the gain is small or unknown
        #[arg(long)]
        force: bool,
        /// Return once the job is accepted; a running larder does it
        #[arg(long)]
        detach: bool,
    },
    /// List the models in the cache
    Ls {
        /// Only this model
        #[arg(value_name = "MODEL", value_parser = model)]
        model: Option<ModelRef>,
    },
    /// Remove models from the cache, by name or as many as it takes
    Evict(Evict),
    /// Bring back what was evicted by name, if cache.trash keeps it
    Restore {
        /// The model; without a revision all of its revisions
        #[arg(value_name = "MODEL", value_parser = model)]
        model: ModelRef,
    },
    /// Say what keeps a model in the cache, or why it would go
    Why {
        /// The model, owner/name or owner/name@revision
        #[arg(value_name = "MODEL", value_parser = model)]
        model: ModelRef,
    },
    /// Keep a model whatever happens, until it is unpinned
    Pin {
        /// The model; without a revision all of its revisions
        #[arg(value_name = "MODEL", value_parser = model)]
        model: ModelRef,
    },
    /// Take a pin away
    Unpin {
        /// The model; without a revision all of its revisions
        #[arg(value_name = "MODEL", value_parser = model)]
        model: ModelRef,
    },
    /// Keep a model for a time, as its user; asking again renews the lease
    Lease {
        /// The model; without a revision all of its revisions
        #[arg(value_name = "MODEL", value_parser = model)]
        model: ModelRef,
        /// For how long from now on
        #[arg(long, value_name = "DURATION", default_value = "1h")]
        ttl: Span,
        /// Who needs it [default: the user's name]
        #[arg(long, value_name = "NAME")]
        holder: Option<String>,
    },
    /// End a lease before its time
    Release {
        /// The model; without a revision all of its revisions
        #[arg(value_name = "MODEL", value_parser = model)]
        model: ModelRef,
        /// Whose lease [default: the user's name]
        #[arg(long, value_name = "NAME", conflicts_with = "all")]
        holder: Option<String>,
        /// Everybody's leases
        #[arg(long)]
        all: bool,
    },
    /// Read models again and compare them with their hashes
    Verify {
        /// Only this model
        #[arg(value_name = "MODEL", value_parser = model)]
        model: Option<ModelRef>,
        /// Bytes per second that may be read [default: cache.verify_bandwidth]
        #[arg(long, value_name = "SIZE", value_parser = bandwidth)]
        speed: Option<Bandwidth>,
        /// Return once the job is accepted; a running larder does it
        #[arg(long)]
        detach: bool,
    },
    /// Say what works here, what larder can and cannot see, and what to do about it
    Doctor {
        /// Also walk the whole cache and repair the records
        #[arg(long)]
        reconcile: bool,
        /// Only ask this host's larder whether it is ready: exit code 0, or 75 when it is not or says nothing for 2 s
        #[arg(long, conflicts_with = "reconcile")]
        ready: bool,
    },
    /// Show or change how fast bytes may come, while larder runs
    Limit {
        /// Bytes per second (20MB), or none for no limit; shows the limits if left out
        #[arg(value_name = "SIZE|none", value_parser = limit)]
        bandwidth: Option<Limit>,
        /// Of this running job instead of the host
        #[arg(long, value_name = "ID")]
        job: Option<JobId>,
        /// Of all hosts of the fleet together, which share it
        #[arg(long, conflicts_with = "job")]
        fleet: bool,
        /// Requests per second that the fleet sends to each source, or none for no limit
        #[arg(long, value_name = "N|none", value_parser = requests, requires = "fleet")]
        requests: Option<Requests>,
        /// What the fleet takes of this hub or mirror, beside its limits for all (https://huggingface.co)
        #[arg(long, value_name = "URL", value_parser = source, requires = "fleet")]
        source: Option<SourceName>,
    },
    /// Look at the hosts of the fleet, find out who has a model, let a host take no more jobs
    Hosts {
        #[command(subcommand)]
        verb: Option<Hosts>,
    },
    /// Plan a night from a manifest, and ask a running larder for its jobs
    Warm(Warm),
    /// What the last night did: done, failed and why, where the bytes came from
    Report(Reported),
    /// Look at jobs and change them
    Jobs {
        #[command(subcommand)]
        verb: Option<Jobs>,
    },
    /// Show or check the configuration
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Group)]
pub(super) struct Stage {
    /// The model, owner/name or owner/name@revision, or a short name of larder models
    #[arg(value_name = "MODEL", value_parser = model, required_unless_present = "plan")]
    pub(super) model: Option<ModelRef>,
    /// Stage what larder plan --category NAME --json wrote into this file; - for stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "dry_run", "idempotency_key"])]
    pub(super) plan: Option<PathBuf>,
    #[command(flatten)]
    pub(super) choice: FileChoice,
    /// Never evict it until it is unpinned
    #[arg(long)]
    pin: bool,
    /// Return once the job is accepted; a running larder does it
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) detach: bool,
    /// Only show what would happen
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Bytes per second that this job may take of the network, for example 20MB
    #[arg(long, value_name = "SIZE", value_parser = bandwidth)]
    bandwidth: Option<Bandwidth>,
    /// Fetch only in these hours, for example "22:00-06:00 Europe/Berlin"; until then the job waits and keeps its bytes
    #[arg(long, value_name = "HOURS")]
    window: Option<Windows>,
    /// Bytes per second outside of --window; without it nothing comes then
    #[arg(long, value_name = "SIZE", value_parser = bandwidth, requires = "window")]
    bandwidth_outside: Option<Bandwidth>,
    /// Evict other models by the rules of the configuration if there is no room (a running larder does so by itself)
    #[arg(long)]
    pub(super) evict: bool,
    /// Nobody evicts it for so long after it is ready, unless the lease is released before
    #[arg(long, value_name = "DURATION")]
    lease: Option<Span>,
    /// Which hosts: this, pool (whoever is free), best (the one that suits it best), all, names or labels with commas
    /// between them (gpu-1,gpu-2 or zone=a,gpu=h100), best:LABELS
    #[arg(long, value_name = "HOSTS", default_value = "this")]
    hosts: larder_jobs::Hosts,
    /// Higher goes first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i16,
    /// Give up if the model is not ready by then (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    deadline: Option<jiff::Timestamp>,
    /// Do not start before then (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    not_before: Option<jiff::Timestamp>,
    /// Who asks, for people who look at the job
    #[arg(long, value_name = "NAME")]
    requested_by: Option<String>,
    /// Answer with the job of the first request that had this key
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Debug, Group)]
pub(super) struct Evict {
    /// The models, owner/name for all revisions or owner/name@revision for one
    #[arg(value_name = "MODEL", value_parser = model, conflicts_with_all = ["free", "older_than"])]
    pub(super) models: Vec<ModelRef>,
    /// Free so many bytes, by the rules of the configuration
    #[arg(long, value_name = "SIZE", conflicts_with = "older_than")]
    pub(super) free: Option<Size>,
    /// Everything that was not used for so long and that the rules let go
    #[arg(long, value_name = "AGE")]
    pub(super) older_than: Option<Span>,
    /// Only show what would go and what would stay, and why
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Clone, Group)]
pub(super) struct Want {
    /// The model, owner/name or owner/name@revision, or a short name of larder models
    #[arg(value_name = "MODEL", value_parser = model)]
    model: ModelRef,
    #[command(flatten)]
    choice: FileChoice,
}

/// What a plan is of.
#[derive(Debug, Clone, Group)]
pub(super) struct Several {
    /// The models, also by short names; of one alone what staging it would do, on a card what it takes to evaluate it
    #[arg(value_name = "MODEL", value_parser = model, required_unless_present = "category")]
    pub(super) models: Vec<ModelRef>,
    /// Every model of this category of the registry: tiny, coding, general or instruct
    #[arg(long, value_name = "NAME")]
    pub(super) category: Option<String>,
}

/// Which card, and what the model shall do on it.
#[derive(Debug, Clone, Default, Group)]
#[command(next_help_heading = "On which card")]
pub(super) struct On {
    /// A card by name, for example "RTX 4090" [default: this host's GPU, as free as it is now]
    #[arg(long, value_name = "NAME", conflicts_with = "vram")]
    pub(super) gpu: Option<String>,
    /// A card with so much memory, for example 24GiB
    #[arg(long, value_name = "SIZE")]
    pub(super) vram: Option<Size>,
    /// Equal cards that share the model
    #[arg(long, value_name = "N")]
    pub(super) gpus: Option<u64>,
    /// Tokens of prompt and answer [default: 4096, or what the model is made for]
    #[arg(long, value_name = "TOKENS")]
    pub(super) context: Option<u64>,
    /// Sequences at the same time
    #[arg(long, value_name = "N")]
    pub(super) batch: Option<u64>,
    /// transformers, vllm or llama.cpp
    #[arg(long, value_name = "NAME", value_parser = engine)]
    pub(super) engine: Option<Engine>,
    /// Do not ask the hub what others published of the model
    #[arg(long)]
    pub(super) local: bool,
}

impl On {
    /// Whether anything was said.
    pub(super) fn is_empty(&self) -> bool {
        let Self { gpu, vram, gpus, context, batch, engine, local } = self;
        let numbers = [gpus, context, batch];
        gpu.is_none() && vram.is_none() && engine.is_none() && !local && numbers.iter().all(|n| n.is_none())
    }
}

/// Which files of a model.
#[derive(Debug, Clone, Group)]
pub(super) struct FileChoice {
    /// Only files that match (as the hub's allow_patterns); may be repeated
    #[arg(long, value_name = "PATTERN")]
    include: Vec<Glob>,
    /// No files that match; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<Glob>,
    /// Weight format
    #[arg(long, value_enum, default_value_t = FormatArg::Auto)]
    format: FormatArg,
    /// Which variant: exact, auto (the best one that fits the GPU), or a list like fp8,int4,gguf:Q4_K_M
    #[arg(long, value_name = "WORDS", value_parser = variant)]
    variant: Option<Variant>,
    /// Accept pickled weights and the repo's Python code, whose loading runs code
    #[arg(long)]
    allow_unsafe: bool,
    /// Ask the hub with the token that [[hub.tokens]] has under this name
    #[arg(long, value_name = "NAME")]
    token_ref: Option<TokenRef>,
}

/// What a limit becomes.
#[derive(Debug, Group)]
pub(super) struct Reported {
    /// How far it looks back [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub(super) since: Option<Span>,
    /// Only what this requester asked for; manifests ask as warm
    #[arg(long, value_name = "NAME")]
    pub(super) requested_by: Option<String>,
    /// Also write it as a page
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// End with 75 if something failed, or a schedule did not ask for all that its manifest names
    #[arg(long)]
    pub(super) check: bool,
}

#[derive(Debug, Group)]
pub(super) struct Warm {
    /// The manifest, in TOML or (by its ending) YAML; - for stdin
    #[arg(value_name = "MANIFEST")]
    pub(super) manifest: PathBuf,
    /// Only show what would be fetched and evicted, and whether it is there by the deadline
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Limit(pub(super) Option<Bandwidth>);

fn bandwidth(text: &str) -> Result<Bandwidth, Invalid> {
    text.parse()
}

fn variant(text: &str) -> Result<Variant, Invalid> {
    text.parse()
}

fn engine(text: &str) -> Result<Engine, Invalid> {
    text.parse().map_err(|unknown: crate::fit::Unknown| Invalid::new(unknown.what, unknown.hint))
}

fn source(text: &str) -> Result<SourceName, Invalid> {
    text.parse()
}

fn limit(text: &str) -> Result<Limit, Invalid> {
    match text {
        "none" => Ok(Limit(None)),
        text => text.parse().map(|bandwidth| Limit(Some(bandwidth))).map_err(|invalid: Invalid| {
            Invalid::new(invalid.to_string(), "write bytes per second like 20MB, or none for no limit")
        }),
    }
}

/// A point in time, as people can be expected to write it.
fn time(text: &str) -> Result<jiff::Timestamp, Invalid> {
    text.parse().map_err(|_| {
        Invalid::new(
            format!("`{}` is not a time", text.chars().take(64).collect::<String>().escape_debug()),
            "write it like 2026-12-31T23:00:00Z or 2026-12-31T23:00:00+01:00",
        )
    })
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    Auto,
    Safetensors,
    Gguf,
    Pickle,
}

/// What of a host is measured.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum TestArg {
    Disk,
    Memory,
    Hub,
}

impl From<TestArg> for Test {
    fn from(test: TestArg) -> Self {
        match test {
            TestArg::Disk => Self::Disk,
            TestArg::Memory => Self::Memory,
            TestArg::Hub => Self::Hub,
        }
    }
}

impl Want {
    /// The job that this asks for.
    pub(super) fn job(self) -> Job {
        self.choice.job(self.model)
    }
}

impl FileChoice {
    /// The variants that were asked for, if any were.
    pub(super) fn variant(&self) -> Option<Variant> {
        self.variant.clone()
    }

    /// The download of a model that this asks for.
    pub(super) fn job(self, model: ModelRef) -> Job {
        let mut job = Job::download(model);
        let Work::Download(download) = &mut job.work else { return job };
        download.include = self.include;
        download.exclude = self.exclude;
        download.format = match self.format {
            FormatArg::Auto => Format::Auto,
            FormatArg::Safetensors => Format::Safetensors,
            FormatArg::Gguf => Format::Gguf,
            FormatArg::Pickle => Format::Pickle,
        };
        download.variant = self.variant.unwrap_or_default();
        download.allow_unsafe = self.allow_unsafe;
        download.token_ref.clone_from(&self.token_ref);
        job
    }
}

impl Stage {
    /// The job that this asks for.
    pub(super) fn job(&self) -> error::Result<Job> {
        let model = self.model.clone().ok_or_else(|| Error::internal("a stage without a model"))?;
        let mut job = self.choice.clone().job(model);
        self.also(&mut job)?;
        Ok(job)
    }

    /// Adds what does not choose files to a job.
    pub(super) fn also(&self, job: &mut Job) -> error::Result<()> {
        if let Work::Download(download) = &mut job.work {
            download.bandwidth = self.bandwidth;
            download.window.clone_from(&self.window);
            download.bandwidth_outside = self.bandwidth_outside;
            download.lease_ttl = self.lease;
            download.pin |= self.pin;
        }
        job.common.hosts = self.hosts.clone();
        job.common.priority = self.priority;
        job.common.deadline = self.deadline;
        job.common.not_before = self.not_before;
        job.common.requested_by.clone_from(&self.requested_by);
        job.common.idempotency_key.clone_from(&self.idempotency_key);
        job.validate()?;
        Ok(())
    }
}
