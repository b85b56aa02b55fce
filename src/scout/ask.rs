//! What somebody wants to know: whether a model fits, or what it takes to evaluate several. The same fields as a download
//! job has, and what the model shall do on which card.

mod shape;

use larder_jobs::{Download, Invalid, Job, Size, Variant, Work};
use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::catalogue::{Category, Registry};
use crate::fit::Engine;

/// Most models of one evaluation plan.
pub const MAX_MODELS: usize = 64;
/// Longest context, largest batch and most cards that anybody means.
const MAX_CONTEXT: u64 = 1 << 24;
const MAX_BATCH: u64 = 1 << 16;
const MAX_GPUS: u64 = 64;

/// What a model shall do, and where.
#[derive(Debug, Clone, Default, PartialEq, JsonSchema)]
pub struct Purpose {
    /// A card of the table; this host's GPU without it.
    pub gpu: Option<String>,
    /// Bytes of memory that a card has, or a text such as `24GiB`, instead of one by name.
    #[schemars(schema_with = "shape::vram")]
    pub vram: Option<u64>,
    /// Equal cards that share the model; 1 if absent.
    #[schemars(range(min = 1, max = MAX_GPUS))]
    pub gpus: Option<u64>,
    /// Tokens of prompt and answer; without it as many as the model is made for, at most 4096.
    #[schemars(range(min = 1, max = MAX_CONTEXT))]
    pub context: Option<u64>,
    /// Sequences at the same time; 1 if absent.
    #[schemars(range(min = 1, max = MAX_BATCH))]
    pub batch: Option<u64>,
    /// The engine; without it the first that runs the model as it is stored.
    pub engine: Option<Engine>,
    /// Do not ask the hub for published quantizations.
    #[schemars(with = "Option<bool>")]
    pub local: bool,
}

/// Whether one model fits.
#[derive(Debug, Clone, PartialEq)]
pub struct FitAsk {
    /// The model as a job would stage it.
    pub want: Download,
    /// What for.
    pub purpose: Purpose,
}

/// What it takes to evaluate several models.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationAsk {
    /// The models as jobs would stage them.
    pub wants: Vec<Download>,
    /// What for.
    pub purpose: Purpose,
}

/// `POST /v1/plan`: of one model what a download would do, of a category or a list what it takes to evaluate it.
#[derive(Debug, Clone, PartialEq)]
pub enum PlanAsk {
    /// One download.
    Download(Box<Download>),
    /// Several models.
    Evaluation(EvaluationAsk),
}

impl FitAsk {
    /// Reads the body of `POST /v1/fit`. A short name of the registry is good for a repo.
    ///
    /// # Errors
    /// As those of a job, and numbers that no card or model has.
    pub fn from_json(body: Value, registry: &Registry) -> Result<Self, Invalid> {
        let mut fields = object(body)?;
        let purpose = Purpose::take(&mut fields)?;
        Ok(Self { want: download(fields, registry)?, purpose })
    }
}

impl PlanAsk {
    /// Reads the body of `POST /v1/plan`.
    ///
    /// # Errors
    /// As [`FitAsk::from_json`]; a category or a model that the registry does not know, or too many of them.
    pub fn from_json(body: Value, registry: &Registry) -> Result<Self, Invalid> {
        let mut fields = object(body)?;
        let (category, models) = (fields.remove("category"), fields.remove("models"));
        if category.is_none() && models.is_none() {
            return Ok(Self::Download(Box::new(download(fields, registry)?)));
        }
        if fields.contains_key("repo") {
            let hint = "name it among `models`, or leave those and `category` out";
            return Err(Invalid::new("`repo` stands beside `models` or `category`", hint));
        }
        let purpose = Purpose::take(&mut fields)?;
        fields.entry("variant").or_insert_with(|| "auto".into());
        let mut names = Vec::new();
        match category {
            None => {}
            Some(Value::String(word)) => {
                let category = word.parse::<Category>().map_err(|unknown| {
                    let known: Vec<_> = Category::ALL.iter().map(|one| one.word()).collect();
                    Invalid::new(unknown.to_string(), format!("use one of: {}", known.join(", ")))
                })?;
                let entries = registry.by_category(category).filter(|entry| entry.alias_of.is_none());
                names.extend(entries.map(|entry| entry.id.to_string()));
            }
            Some(_) => return Err(Invalid::new("`category` is no text", "send for example \"coding\"")),
        }
        match models {
            None => {}
            Some(Value::Array(each)) => {
                for name in each {
                    let Value::String(name) = name else {
                        return Err(Invalid::new("`models` holds something that is no text", "send names"));
                    };
                    names.push(name);
                }
            }
            Some(_) => return Err(Invalid::new("`models` is no list", "send a list of names")),
        }
        if names.is_empty() || names.len() > MAX_MODELS {
            return Err(Invalid::new(
                format!("a plan is of 1 to {MAX_MODELS} models, and {} are asked for", names.len()),
                "name fewer models, or a smaller category",
            ));
        }
        let wants = names.into_iter().map(|name| {
            let mut one = fields.clone();
            let (repo, revision) = match name.split_once('@') {
                Some((repo, revision)) => (repo.to_owned(), Some(revision.to_owned())),
                None => (name, None),
            };
            one.insert("repo".into(), repo.into());
            one.extend(revision.map(|revision| ("revision".to_owned(), revision.into())));
            download(one, registry)
        });
        Ok(Self::Evaluation(EvaluationAsk { wants: wants.collect::<Result<_, _>>()?, purpose }))
    }
}

impl Purpose {
    /// Takes its fields out of a body.
    fn take(fields: &mut Map<String, Value>) -> Result<Self, Invalid> {
        let text = |value: Option<Value>, name: &str| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Invalid::new(format!("`{name}` is no text"), "send a text")),
        };
        let gpu = text(fields.remove("gpu"), "gpu")?;
        let engine = text(fields.remove("engine"), "engine")?;
        let engine = engine.map(|word| word.parse::<Engine>()).transpose();
        let engine = engine.map_err(|unknown| Invalid::new(unknown.what, unknown.hint))?;
        let vram = match fields.remove("vram") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let size: Size = serde_json::from_value(value)
                    .map_err(|error| Invalid::new(format!("`vram`: {error}"), "send bytes, or \"24GiB\""))?;
                Some(at_least_one(size.bytes(), "vram", u64::MAX)?)
            }
        };
        if gpu.is_some() && vram.is_some() {
            return Err(Invalid::new(
                "`gpu` and `vram` exclude each other",
                "name a card, or say how much it has",
            ));
        }
        let mut number = |name: &str, most: u64| match fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let number = value.as_u64().ok_or_else(|| {
                    Invalid::new(
                        format!("`{name}` is no whole number of at least 1"),
                        "send for example 4096",
                    )
                })?;
                at_least_one(number, name, most).map(Some)
            }
        };
        let (context, batch, gpus) =
            (number("context", MAX_CONTEXT)?, number("batch", MAX_BATCH)?, number("gpus", MAX_GPUS)?);
        let local = match fields.remove("local") {
            None | Some(Value::Null) => false,
            Some(value) => value
                .as_bool()
                .ok_or_else(|| Invalid::new("`local` is neither true nor false", "send true or false"))?,
        };
        Ok(Self { gpu, vram, gpus, context, batch, engine, local })
    }
}

fn at_least_one(number: u64, name: &str, most: u64) -> Result<u64, Invalid> {
    if (1..=most).contains(&number) {
        return Ok(number);
    }
    Err(Invalid::new(format!("`{name}` is not between 1 and {most}"), "send a number in that range"))
}

fn object(body: Value) -> Result<Map<String, Value>, Invalid> {
    match body {
        Value::Object(fields) => Ok(fields),
        _ => Err(Invalid::new("the body is no JSON object", r#"send {"repo": "owner/name"}"#)),
    }
}

/// The download that a body describes.
fn download(mut fields: Map<String, Value>, registry: &Registry) -> Result<Download, Invalid> {
    fields.entry("kind").or_insert_with(|| "download".into());
    if let Some(Value::String(name)) = fields.get("repo")
        && !name.contains('/')
    {
        let entry =
            registry.find(name).map_err(|unknown| Invalid::new(unknown.to_string(), unknown.hint()))?;
        let id = entry.id.to_string();
        fields.insert("repo".into(), id.into());
    }
    match Job::from_json(Value::Object(fields))?.work {
        Work::Download(want) => Ok(want),
        work => Err(Invalid::new(
            format!("a {} job needs no GPU and stages nothing", work.kind()),
            "send the body of a download job",
        )),
    }
}

/// The same want without a choice of variants, for what is looked at first.
pub(super) fn exact(want: &Download) -> Download {
    Download { variant: Variant::Exact, ..want.clone() }
}
