//! What there is to say of each route: what it does, its parameters, its body, its answers.

use larder_jobs::{FleetLimits, FleetLimitsChange, Job, JobView};
use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::super::cache::CacheView;
use super::super::health::Ready;
use super::super::hosts::{HostList, HostView};
use super::super::jobs::{Accepted, JobList, Redriven};
use super::super::keep::Wanted;
use super::super::limits::{Change, JobLimitView, LimitsView};
use super::super::models::{ModelList, ModelPage, VerdictList};
use super::super::scout::RegistryView;
use super::super::warm::{Body, WarmView};
use super::shape_of;
use crate::gpu::History;
use crate::keeper::PlanView as EvictionView;
use crate::ledger::Repaired;
use crate::scout::{EvaluationView, FitAsk, FitView, HostHistory, HostView as ThisHost, PlanAsk, PlanView};
use crate::warm::{NightView, Report};

type Schema = fn(&mut SchemaGenerator) -> Value;

/// One operation.
pub(super) struct Operation {
    pub(super) says: &'static str,
    pub(super) query: &'static [&'static str],
    pub(super) headers: &'static [&'static str],
    pub(super) body: Option<Schema>,
    pub(super) example: Value,
    pub(super) answers: Vec<Answer>,
}

/// One answer that is no problem.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) says: &'static str,
    pub(super) shape: Shape,
}

/// What an answer looks like.
pub(super) enum Shape {
    Json(Schema),
    /// Text of this media type.
    Text(&'static str),
    Nothing,
}

/// Where a parameter stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    Query,
    Header,
}

impl Operation {
    fn new(says: &'static str) -> Self {
        Self { says, query: &[], headers: &[], body: None, example: Value::Null, answers: Vec::new() }
    }

    fn query(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }

    fn headers(self, headers: &'static [&'static str]) -> Self {
        Self { headers, ..self }
    }

    fn body(self, body: Schema, example: Value) -> Self {
        Self { body: Some(body), example, ..self }
    }

    fn answer(mut self, status: u16, says: &'static str, shape: Shape) -> Self {
        self.answers.push(Answer { status, says, shape });
        self
    }

    fn json(self, status: u16, says: &'static str, schema: Schema) -> Self {
        self.answer(status, says, Shape::Json(schema))
    }
}

/// This document, which is described elsewhere.
fn document(_: &mut SchemaGenerator) -> Value {
    json!({"type": "object", "description": "See https://spec.openapis.org/oas/v3.1.0."})
}

/// Of one model what a download would do, of several what it takes to evaluate them.
fn plan(generator: &mut SchemaGenerator) -> Value {
    json!({"oneOf": [shape_of::<PlanView>(generator), shape_of::<EvaluationView>(generator)]})
}

/// What is said of the route of that name.
pub(super) fn of(name: &str) -> Option<Operation> {
    of_jobs(name).or_else(|| of_models(name)).or_else(|| of_the_host(name))
}

fn of_jobs(name: &str) -> Option<Operation> {
    let view: Schema = shape_of::<JobView>;
    Some(match name {
        "list_jobs" => Operation::new("Jobs, the newest first.")
            .query(&["state", "kind", "host", "limit", "cursor"])
            .json(200, "A page of them.", shape_of::<JobList>),
        "enqueue" => Operation::new("Asks for a job, or joins the one in flight that does the same.")
            .headers(&["Idempotency-Key"])
            .body(shape_of::<Job>, json!({"kind": "download", "repo": "openai-community/gpt2", "pin": true}))
            .json(202, "The job is durable.", shape_of::<Accepted>),
        "redrive" => {
            Operation::new("Runs every failed job again.").json(202, "How many.", shape_of::<Redriven>)
        }
        "show_job" => Operation::new("One job.").json(200, "The job.", view),
        "follow_job" => Operation::new("How a job stands, as server-sent events, until it has ended.")
            .headers(&["Last-Event-ID"])
            .answer(
                200,
                "Events named state, progress and end; each has the job as data.",
                Shape::Text("text/event-stream"),
            )
            .answer(204, "The job has ended, and that event is the last one.", Shape::Nothing),
        "cancel" => Operation::new("Takes back one requester's wish, or everybody's.")
            .query(&["requested_by"])
            .json(202, "The job as it stands.", view),
        "retry" => Operation::new("Runs a failed or cancelled job again.").json(202, "The job.", view),
        "limit_job" => Operation::new("Changes the limit of a job that runs on this host.")
            .body(shape_of::<Change>, json!({"bandwidth": 20_000_000}))
            .json(200, "The limit.", shape_of::<JobLimitView>),
        _ => return None,
    })
}

fn of_models(name: &str) -> Option<Operation> {
    let list: Schema = shape_of::<ModelList>;
    let changed = |says| Operation::new(says).query(&["revision"]).json(200, "Its revisions.", list);
    Some(match name {
        "list_models" => Operation::new("The models in the cache, in the order of their names.")
            .query(&["limit", "cursor"])
            .json(200, "All of them, or a page.", shape_of::<ModelPage>),
        "show_model" => Operation::new("A model's revisions, and why each would be kept or evicted.")
            .query(&["revision"])
            .json(200, "Its revisions.", shape_of::<VerdictList>),
        "pin" => changed("Pins a model: it is never evicted."),
        "unpin" => changed("Takes the pin away."),
        "lease" => Operation::new("Leases a model for a while, or renews the lease of that holder.")
            .body(shape_of::<Wanted>, json!({"holder": "pod-7", "ttl": "15m"}))
            .json(200, "Its revisions.", list),
        "release" => Operation::new("Ends a holder's lease, or everybody's.")
            .query(&["holder", "revision"])
            .json(200, "Its revisions.", list),
        "restore" => changed("Brings back from the trash what was evicted by name."),
        "reconcile" => Operation::new("Walks the whole cache and repairs the records.").json(
            200,
            "What was repaired.",
            shape_of::<Repaired>,
        ),
        "plan_eviction" => Operation::new("What an eviction would do; at most one parameter.")
            .query(&["free", "older_than", "model"])
            .json(200, "The plan.", shape_of::<EvictionView>),
        "fit" => Operation::new("Whether a model fits on a card, and which variant does.")
            .body(shape_of::<FitAsk>, json!({"repo": "openai-community/gpt2", "gpu": "RTX 4090"}))
            .json(200, "The verdict.", shape_of::<FitView>),
        "plan" => Operation::new("What a download would do, or what it takes to evaluate several models.")
            .body(shape_of::<PlanAsk>, json!({"repo": "openai-community/gpt2"}))
            .json(200, "The plan.", plan),
        "plan_night" => Operation::new("What a manifest would do, and the jobs that do it.")
            .body(shape_of::<Body>, json!({"manifest": "[[models]]\nmodel = \"openai-community/gpt2\"\n"}))
            .json(200, "The plan.", shape_of::<NightView>),
        "warm" => Operation::new("Asks for a manifest's jobs, for all of them or for none.")
            .headers(&["Idempotency-Key"])
            .body(
                shape_of::<Body>,
                json!({"manifest": "[[models]]\nmodel = \"openai-community/gpt2\"\n", "name": "night"}),
            )
            .json(202, "The batch, and what was dropped.", shape_of::<WarmView>),
        "report" => Operation::new("What the downloads of the last hours did.")
            .query(&["since", "requested_by"])
            .json(200, "The report.", shape_of::<Report>),
        "list_registry" => Operation::new("The models that are known by name.").query(&["category"]).json(
            200,
            "The models.",
            shape_of::<RegistryView>,
        ),
        _ => return None,
    })
}

fn of_the_host(name: &str) -> Option<Operation> {
    let limits: Schema = shape_of::<LimitsView>;
    let text = Shape::Text("text/plain");
    Some(match name {
        "show_limits" => Operation::new("How fast bytes may come.").json(200, "The limits.", limits),
        "limit_host" => {
            Operation::new("Changes the host's limit until larder ends or reads its configuration.")
                .body(shape_of::<Change>, json!({"bandwidth": 20_000_000}))
                .json(200, "The limits.", limits)
        }
        "list_hosts" => {
            Operation::new("Every host that the fleet knows, or those that have a model or labels.")
                .query(&["model", "labels"])
                .json(200, "The hosts.", shape_of::<HostList>)
        }
        "show_host_of_fleet" => {
            Operation::new("A host and all models in its cache.").json(200, "The host.", shape_of::<HostView>)
        }
        "drain" => Operation::new("Lets a host take no more jobs; what runs there goes on.")
            .query(&["requested_by"])
            .json(200, "The host.", shape_of::<HostView>),
        "undrain" => {
            Operation::new("Lets a host take jobs again.").json(200, "The host.", shape_of::<HostView>)
        }
        "show_fleet_limits" => Operation::new("What all hosts of the fleet together may take.").json(
            200,
            "The limits.",
            shape_of::<FleetLimits>,
        ),
        "limit_fleet" => Operation::new("Changes that; what is not sent stays as it is.")
            .body(
                shape_of::<FleetLimitsChange>,
                json!({"bandwidth": 1_000_000_000, "sources": {"https://huggingface.co": {"requests_per_second": 50}}}),
            )
            .json(200, "The limits.", shape_of::<FleetLimits>),
        "show_cache" => Operation::new("The disk by class, and where its watermarks stand.").json(
            200,
            "The disk.",
            shape_of::<CacheView>,
        ),
        "show_vram" => Operation::new("The memory of the GPUs over the last hours.").json(
            200,
            "By the minute.",
            shape_of::<History>,
        ),
        "show_host" => Operation::new("This host now.").json(200, "The host.", shape_of::<ThisHost>),
        "show_host_history" => Operation::new("What was measured, and which hardware there was.").json(
            200,
            "The last hundred of each.",
            shape_of::<HostHistory>,
        ),
        "scrape" => Operation::new("Metrics in Prometheus' text format.").answer(200, "The metrics.", text),
        "live" => Operation::new("Whether the process lives.").answer(200, "It does.", text),
        "ready" => Operation::new("Whether it can work.").json(200, "It can.", shape_of::<Ready>),
        "describe" => Operation::new("This document.").json(200, "OpenAPI 3.1.", document),
        _ => return None,
    })
}

/// A parameter by its name; `None` for one that nobody knows.
pub(super) fn parameter(place: Place, name: &str) -> Option<Value> {
    let text = |most: u32| json!({"type": "string", "minLength": 1, "maxLength": most});
    let (says, schema) = match name {
        "id" => ("The job's id.", json!({"type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$"})),
        "owner" => (
            "The owner of the repo.",
            json!({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9-]{0,40}$"}),
        ),
        "name" => {
            ("The repo's name.", json!({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,90}$"}))
        }
        "host" => ("The host's name.", json!({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,253}$"})),
        "labels" => ("Only hosts with these labels, such as zone=a,gpu=h100.", text(1024)),
        "state" => ("Only jobs in this state.", json!({"enum": words(larder_jobs::State::ALL)})),
        "kind" => ("Only jobs of this kind.", json!({"enum": words(larder_jobs::Kind::ALL)})),
        "limit" => ("Most entries of the page.", json!({"type": "integer", "minimum": 1, "maximum": 1000})),
        "cursor" => ("`next` of the page before.", json!({"type": "string"})),
        "requested_by" => ("Whose wish; everybody's without it.", json!({"type": "string", "minLength": 1})),
        "revision" => ("Only this commit, branch or tag.", text(255)),
        "holder" => ("Whose lease; everybody's without it.", text(128)),
        "free" => ("Bytes to free, such as 20GB.", text(32)),
        "older_than" => ("What was not used for so long, such as 30d.", text(32)),
        "model" => ("One model, owner/name or owner/name@revision.", text(355)),
        "since" => ("From when on: a time, or how long ago such as 12h.", text(64)),
        "category" => ("Only this category.", json!({"enum": ["tiny", "coding", "general", "instruct"]})),
        "Idempotency-Key" => ("As the field idempotency_key.", text(128)),
        "Last-Event-ID" => ("The id of the event that came last.", json!({"type": "string"})),
        _ => return None,
    };
    let (place, required) = match place {
        Place::Path => ("path", true),
        Place::Query => ("query", false),
        Place::Header => ("header", false),
    };
    Some(json!({"name": name, "in": place, "required": required, "description": says, "schema": schema}))
}

fn words<T: std::fmt::Display>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}
