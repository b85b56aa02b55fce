//! One entry of the registry: what is known of a model by name.

use std::fmt;
use std::str::FromStr;

use larder_jobs::{RepoId, Revision};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::find::best;

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// About a billion parameters or fewer, for quick runs.
    Tiny,
    /// Trained on code.
    Coding,
    /// Base models, not tuned to follow instructions.
    General,
    /// Tuned to follow instructions, to chat or to reason.
    Instruct,
}

impl Category {
    /// All of them, in the order in which they are shown.
    pub const ALL: &'static [Category] =
        &[Category::Tiny, Category::Coding, Category::General, Category::Instruct];

    /// The word, as in the file and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Category::Tiny => "tiny",
            Category::Coding => "coding",
            Category::General => "general",
            Category::Instruct => "instruct",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Category {
    type Err = larder_jobs::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = Self::ALL.iter().map(|category| category.word()).collect();
        Self::ALL
            .iter()
            .find(|category| category.word().eq_ignore_ascii_case(text.trim()))
            .copied()
            .ok_or_else(|| {
                let hint = match best(text, &words) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("write one of {}", words.join(", ")),
                };
                larder_jobs::Invalid::new(format!("`{}` is no category", super::find::shown(text)), hint)
            })
    }
}

/// Whether a repo asks for its terms to be accepted, and who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gated {
    /// Open to everybody.
    No,
    /// Access is given at once to whoever accepts.
    Auto,
    /// The owner looks at each request.
    Manual,
}

/// How the weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "WeightFormat")]
pub enum Format {
    /// `*.safetensors`.
    Safetensors,
    /// Pickles only: reading them runs code, so they are refused unless allowed.
    Pickle,
}

/// Under which terms a model is to be had. What is not known is `null`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// The hub's id of the licence, such as `apache-2.0`, or `other`.
    pub licence: Option<String>,
    /// Its name where the id is `other`.
    pub licence_name: Option<String>,
    /// Whether terms must be accepted first.
    pub gated: Option<Gated>,
    /// Whether it runs only with code from the repo.
    pub remote_code: Option<bool>,
}

/// Which weight files to expect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The format on the main branch.
    pub format: Option<Format>,
    /// What the files are stored in, in the hub's words: `bfloat16`, `float32`. The precision that a model runs in is
    /// another question.
    pub dtype: Option<String>,
    /// Globs of the weight files to expect.
    #[serde(default)]
    pub weights: Vec<String>,
    /// Globs of files in the repo that hold the same weights once more.
    #[serde(default)]
    pub duplicates: Vec<String>,
    /// Revisions with a safetensors conversion, where the main branch has none.
    #[serde(default)]
    pub safetensors_in: Vec<Revision>,
    /// Elements in the files, where buffers, towers or doubled heads make them more than the model's parameters.
    pub parameters: Option<u64>,
}

/// What interpretability work needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probes {
    /// Layers to look at, counted from 0.
    #[serde(default)]
    pub layers: Vec<u32>,
    /// `HookedTransformer.from_pretrained` knows it; TransformerLens before 4.0 only.
    pub hooked_transformer: Option<bool>,
    /// The name under which it does, where that is not the hub id.
    pub hooked_name: Option<String>,
    /// TransformerLens has checked it with its `TransformerBridge`.
    pub transformer_bridge: Option<bool>,
}

/// A batch size to start with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BatchSize")]
pub struct Batch {
    /// The card, by its name in the list of cards.
    pub card: String,
    /// Tokens of each sequence.
    pub context: u64,
    /// Sequences at a time.
    pub size: u32,
}

/// One entry. Every byte figure is derived from it at run time, none stands in it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "RegistryModel")]
pub struct Model {
    /// The short name.
    pub name: String,
    /// The repo on the hub; of an alias that of the entry it stands for.
    pub id: RepoId,
    /// Further names.
    pub aliases: Vec<String>,
    /// The repo that this entry is only another name for.
    pub alias_of: Option<RepoId>,
    /// What it is for.
    pub category: Category,
    /// Parameters, each shared tensor once, without vision towers and multi-token-prediction layers.
    pub parameters: Option<u64>,
    /// Longest context that the configuration allows, in tokens.
    pub context: Option<u64>,
    /// Licence, gate, code.
    pub access: Access,
    /// Weight files.
    pub files: Files,
    /// Layers and compatibility for interpretability work.
    pub probes: Probes,
    /// Recommended batch sizes; what is derived at run time decides.
    pub batches: Vec<Batch>,
    /// The shape in the words of `config.json`, with `torch_dtype` taken from the files' dtype where it says none.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub config: Option<Value>,
    /// How to ask it, with `{prompt}` where the question goes.
    pub prompt: Option<String>,
    /// What else is worth knowing.
    pub note: Option<String>,
    /// The file that the entry comes from.
    pub origin: String,
}

impl Model {
    /// Its weights are known to be there as pickles only, at least on the main branch.
    pub fn pickle_only(&self) -> bool {
        self.files.format == Some(Format::Pickle)
    }

    /// Short name, aliases and hub id.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let id = self.alias_of.is_none().then(|| self.id.as_str());
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str)).chain(id)
    }

    /// The part of the config that describes the text model.
    pub(super) fn shape(&self) -> Option<&Value> {
        self.config.as_ref().map(super::drift::text_part)
    }
}
