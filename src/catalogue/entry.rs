//! Reads entries from TOML and refuses nonsense.

use larder_jobs::RepoId;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use super::fault::{Fault, line_of};
use super::find::shown;
use super::model::{Access, Batch, Category, Files, Model, Probes};

/// Bytes of one file.
const MAX_TEXT: usize = 1 << 20;
/// Entries of one file.
const MAX_ENTRIES: usize = 4096;
/// Names, globs and layers of one entry.
const MAX_LIST: usize = 256;
/// Characters of a name or a glob.
const MAX_WORD: usize = 200;
/// Characters of a note or a prompt.
const MAX_PROSE: usize = 2000;
/// Tables within tables of a config.
const MAX_DEPTH: usize = 8;
/// Beyond this a parameter count is a mistake.
const MAX_PARAMETERS: u64 = 100_000_000_000_000;
/// Beyond this a context is a mistake.
const MAX_CONTEXT: u64 = 1 << 32;
/// Beyond this a batch is a mistake.
const MAX_BATCH: u32 = 1 << 16;

/// Numbers of a config that cannot be zero.
const POSITIVE: &[&str] = &[
    "hidden_size",
    "n_embd",
    "d_model",
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "ffn_dim",
    "vocab_size",
    "max_position_embeddings",
    "n_positions",
    "sliding_window",
];
/// Where a config keeps its number of layers, and its longest context.
const LAYERS: &[&str] = &["num_hidden_layers", "n_layer", "n_layers"];
const POSITIONS: &[&str] = &["max_position_embeddings", "n_positions", "max_seq_len"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    model: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    id: Option<RepoId>,
    alias_of: Option<RepoId>,
    #[serde(default)]
    aliases: Vec<String>,
    category: Category,
    parameters: Option<u64>,
    context: Option<u64>,
    access: Option<Access>,
    files: Option<Files>,
    probes: Option<Probes>,
    #[serde(default)]
    batches: Vec<Batch>,
    config: Option<toml::Table>,
    prompt: Option<String>,
    note: Option<String>,
}

/// What is wrong with an entry, and what to do.
type Wrong = (String, String);

fn wrong<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, Wrong> {
    Err((what.into(), hint.into()))
}

/// The entries of a file, each with its line. An alias still lacks the facts of the entry it stands for.
pub(super) fn parse(text: &str, origin: &str) -> Result<Vec<(Model, usize)>, Fault> {
    if text.len() > MAX_TEXT {
        let what = format!("the file has {} bytes, more than {MAX_TEXT}", text.len());
        return Err(Fault::new(origin, None, what, "keep only the models that you use"));
    }
    let file: File = toml::from_str(text).map_err(|error| Fault::toml(origin, text, &error))?;
    if file.model.len() > MAX_ENTRIES {
        let what = format!("the file has {} entries, more than {MAX_ENTRIES}", file.model.len());
        return Err(Fault::new(origin, None, what, "keep only the models that you use"));
    }
    let model = |entry: Spanned<Entry>| {
        let line = line_of(text, entry.span().start);
        let entry = entry.into_inner();
        let name = shown(&entry.name);
        let model = entry.check(origin).map_err(|(what, hint)| {
            Fault::new(origin, Some(line), format!("the entry `{name}`: {what}"), hint)
        })?;
        Ok((model, line))
    };
    file.model.into_iter().map(model).collect()
}

impl Entry {
    fn check(self, origin: &str) -> Result<Model, Wrong> {
        short_name(&self.name)?;
        bounded("aliases", self.aliases.len(), MAX_LIST)?;
        for alias in &self.aliases {
            if alias.contains('/') {
                alias.parse::<RepoId>().map_err(|e| (e.to_string(), e.hint().to_owned()))?;
            } else {
                short_name(alias)?;
            }
        }
        for (key, text) in [("note", &self.note), ("prompt", &self.prompt)] {
            bounded(key, text.as_ref().map_or(0, String::len), MAX_PROSE)?;
        }
        if self.prompt.as_ref().is_some_and(|prompt| !prompt.contains("{prompt}")) {
            return wrong("`prompt` has no place for the question", "write {prompt} where the question goes");
        }
        let id = self.target()?;
        let config = self.config.as_ref().map(|table| object(table, 0)).transpose()?;
        let mut model = Model {
            name: self.name,
            id,
            aliases: self.aliases,
            alias_of: self.alias_of,
            category: self.category,
            parameters: self.parameters,
            context: self.context,
            access: self.access.unwrap_or_default(),
            files: self.files.unwrap_or_default(),
            probes: self.probes.unwrap_or_default(),
            batches: self.batches,
            config,
            prompt: self.prompt,
            note: self.note,
            origin: origin.to_owned(),
        };
        numbers(&model)?;
        words(&model)?;
        shape(&model)?;
        with_dtype(&mut model);
        Ok(model)
    }

    /// The repo; an alias has no facts of its own.
    fn target(&self) -> Result<RepoId, Wrong> {
        match (&self.id, &self.alias_of) {
            (Some(id), None) => Ok(id.clone()),
            (None, Some(target)) => {
                let own = [
                    ("parameters", self.parameters.is_some()),
                    ("context", self.context.is_some()),
                    ("access", self.access.is_some()),
                    ("files", self.files.is_some()),
                    ("probes", self.probes.is_some()),
                    ("batches", !self.batches.is_empty()),
                    ("config", self.config.is_some()),
                ];
                match own.iter().find(|(_, given)| *given) {
                    None => Ok(target.clone()),
                    Some((key, _)) => wrong(
                        format!("an alias takes `{key}` from the entry it stands for"),
                        format!("leave out `{key}`, or write `id` instead of `alias_of`"),
                    ),
                }
            }
            (Some(_), Some(_)) => wrong("`id` and `alias_of` exclude each other", "leave one of them out"),
            (None, None) => wrong(
                "`id` is missing",
                "add the repo on the hub, for example id = \"openai-community/gpt2\"",
            ),
        }
    }
}

/// A short name follows the rules of the second half of a hub id, so that neither is ever taken for the other.
fn short_name(name: &str) -> Result<(), Wrong> {
    match format!("name/{name}").parse::<RepoId>() {
        Ok(_) => Ok(()),
        Err(_) => wrong(
            format!("`{}` is not a short name", shown(name)),
            "use 1 to 96 letters, digits, `.`, `_` and `-`, as in the name of a repo",
        ),
    }
}

fn bounded(key: &str, length: usize, most: usize) -> Result<(), Wrong> {
    if length <= most {
        return Ok(());
    }
    wrong(format!("`{key}` is longer than {most}"), format!("shorten `{key}`"))
}

fn numbers(model: &Model) -> Result<(), Wrong> {
    let counts = [
        ("parameters", model.parameters, MAX_PARAMETERS),
        ("files.parameters", model.files.parameters, MAX_PARAMETERS),
        ("context", model.context, MAX_CONTEXT),
    ];
    for (key, count, most) in counts {
        if count.is_some_and(|n| !(1..=most).contains(&n)) {
            return wrong(
                format!("`{key}` is not between 1 and {most}"),
                format!("write the real number, or leave `{key}` out if it is not known"),
            );
        }
    }
    bounded("batches", model.batches.len(), MAX_LIST)?;
    for batch in &model.batches {
        let (card, context) = (batch.card.len(), batch.context);
        if !(1..=MAX_BATCH).contains(&batch.size) || !(1..=MAX_CONTEXT).contains(&context) || card > MAX_WORD
        {
            return wrong(
                "an entry of `batches` makes no sense",
                format!("write a card, a context of at least 1 and a size from 1 to {MAX_BATCH}"),
            );
        }
        if model.context.is_some_and(|longest| context > longest) {
            return wrong(
                format!("a batch has a context of {context}, longer than the model's"),
                "shorten it to the model's context",
            );
        }
    }
    Ok(())
}

fn words(model: &Model) -> Result<(), Wrong> {
    let files = &model.files;
    for (key, list) in [("files.weights", &files.weights), ("files.duplicates", &files.duplicates)] {
        bounded(key, list.len(), MAX_LIST)?;
        for glob in list {
            let good = (1..=MAX_WORD).contains(&glob.len())
                && !glob.starts_with('/')
                && !glob.split('/').any(|part| part == "..")
                && !glob.contains(char::is_control);
            if !good {
                return wrong(
                    format!("`{key}` has `{}`, which is no file of a repo", shown(glob)),
                    "write paths below the repo's root, such as model-*.safetensors",
                );
            }
        }
    }
    bounded("files.safetensors_in", files.safetensors_in.len(), MAX_LIST)?;
    let texts = [
        ("access.licence", &model.access.licence),
        ("access.licence_name", &model.access.licence_name),
        ("files.dtype", &files.dtype),
        ("probes.hooked_name", &model.probes.hooked_name),
    ];
    for (key, text) in texts {
        if text.as_ref().is_some_and(|t| t.is_empty() || t.len() > MAX_WORD || t.contains(char::is_control)) {
            return wrong(
                format!("`{key}` is empty or not one word"),
                format!("leave `{key}` out if it is not known"),
            );
        }
    }
    Ok(())
}

fn number(shape: &Value, keys: &[&str]) -> Option<u64> {
    keys.iter().find_map(|key| shape.get(*key)).and_then(Value::as_u64)
}

/// What the config must say, and that the entry does not contradict it.
fn shape(model: &Model) -> Result<(), Wrong> {
    let layers = &model.probes.layers;
    bounded("probes.layers", layers.len(), MAX_LIST)?;
    if !layers.is_sorted_by(|a, b| a < b) {
        return wrong("`probes.layers` is not in rising order", "name each layer once, the first one first");
    }
    let Some(shape) = model.shape() else { return Ok(()) };
    if model.config.as_ref().and_then(|config| config.get("model_type")).and_then(Value::as_str).is_none() {
        return wrong("`config` has no `model_type`", "copy it from the repo's config.json");
    }
    for key in POSITIVE {
        if shape.get(*key).is_some_and(|value| value.as_u64().is_none_or(|n| n == 0)) {
            return wrong(
                format!("`config.{key}` is not a whole number of at least 1"),
                "copy it from the repo's config.json",
            );
        }
    }
    if let (Some(count), Some(last)) = (number(shape, LAYERS), layers.last())
        && u64::from(*last) >= count
    {
        return wrong(
            format!("`probes.layers` names layer {last}, but there are {count}"),
            "count the layers from 0",
        );
    }
    if let (Some(most), Some(context)) = (number(shape, POSITIONS), model.context)
        && context > most
    {
        return wrong(
            format!("`context` is {context}, but the config allows {most}"),
            "write the context that the config allows",
        );
    }
    Ok(())
}

/// The files' dtype, in the word that configs have for it, so that it need not be written twice.
fn with_dtype(model: &mut Model) {
    let Some(dtype) = model.files.dtype.clone() else { return };
    if let Some(Value::Object(config)) = &mut model.config
        && !config.contains_key("torch_dtype")
        && !config.contains_key("dtype")
    {
        config.insert("torch_dtype".to_owned(), Value::String(dtype));
    }
}

fn object(table: &toml::Table, depth: usize) -> Result<Value, Wrong> {
    if depth > MAX_DEPTH {
        return wrong(
            format!("`config` has more than {MAX_DEPTH} tables within tables"),
            "copy the keys from the repo's config.json",
        );
    }
    let pairs = table.iter().map(|(key, value)| Ok((key.clone(), json(key, value, depth)?)));
    Ok(Value::Object(pairs.collect::<Result<Map<_, _>, Wrong>>()?))
}

fn json(key: &str, value: &toml::Value, depth: usize) -> Result<Value, Wrong> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text.clone()),
        toml::Value::Integer(n) => Value::from(*n),
        toml::Value::Boolean(flag) => Value::Bool(*flag),
        toml::Value::Float(number) => match serde_json::Number::from_f64(*number) {
            Some(number) => Value::Number(number),
            None => {
                return wrong(
                    format!("`config.{}` is not a number", shown(key)),
                    "write it in digits, or leave it out",
                );
            }
        },
        toml::Value::Array(items) if depth < MAX_DEPTH => {
            Value::Array(items.iter().map(|item| json(key, item, depth + 1)).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => object(table, depth + 1)?,
        toml::Value::Array(_) | toml::Value::Datetime(_) => {
            return wrong(
                format!("`config.{}` is nothing that a config.json can hold", shown(key)),
                "copy it from the repo's config.json",
            );
        }
    })
}
