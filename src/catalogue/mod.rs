//! What larder knows by name before it has asked anybody: models (`config/models.toml`) and cards (`config/gpus.toml`).
//! Pure: text in, entries out; both files are compiled in.
//!
//! The registry is a hint, the repo is the truth. [`Model::drift`] tells where the two differ.
//!
//! ```
//! use larder::catalogue::{Cards, Category, Registry};
//!
//! let registry = Registry::builtin();
//! let model = registry.get("Llama-2-7b").expect("a known name");
//! assert_eq!(model.id.as_str(), "meta-llama/Llama-2-7b-hf");
//! assert_eq!(registry.get("META-LLAMA/llama-2-7b-hf"), Some(model));
//!
//! // An alias has the facts of the repo behind it, and a prompt of its own.
//! let instruct = registry.get("phi-2-instruct").expect("a known name");
//! assert_eq!(instruct.id.as_str(), "microsoft/phi-2");
//! assert!(instruct.alias_of.is_some());
//!
//! let tiny: Vec<&str> = registry.by_category(Category::Tiny).map(|model| model.name.as_str()).collect();
//! assert!(tiny.contains(&"gpt2") && tiny.contains(&"opt-350m"));
//!
//! // Names as people write them, and as the driver does.
//! let cards = Cards::builtin();
//! assert_eq!(cards.get("4090").expect("known"), cards.get("NVIDIA GeForce RTX 4090").expect("known"));
//! assert_eq!(cards.get("RTX 409").expect_err("a typo").nearest[0], "RTX 4090");
//! ```

mod card;
mod drift;
mod entry;
mod fault;
mod find;
mod fitting;
mod model;
mod registry;

#[cfg(test)]
mod tests;

pub use card::{Card, Cards, ComputeCapability, Memory, Pcie, UnknownCard, UsableFrom};
pub use drift::{Drift, RepoFacts, config_drift};
pub use fault::Fault;
pub use fitting::USUAL_CONTEXT;
pub use model::{Access, Batch, Category, Files, Format, Gated, Model, Probes};
pub use registry::{Registry, UnknownModel};
