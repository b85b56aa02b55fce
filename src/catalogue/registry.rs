//! The list of models, and how one is found in it.

use std::collections::HashMap;

use larder_jobs::{Invalid, ModelRef};
use serde::Serialize;

use super::entry::parse;
use super::fault::Fault;
use super::find::{either, nearest, shown};
use super::model::{Category, Model};

/// The entries that come with larder.
const BUILTIN: &str = include_str!("../../config/models.toml");
/// How many names are offered for one that is not known.
const OFFERED: usize = 3;

/// A name that no entry has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no model is called `{asked}`")]
pub struct UnknownModel {
    /// The name, shortened for a message.
    pub asked: String,
    /// Short names that are alike, the most alike first.
    pub nearest: Vec<String>,
}

impl UnknownModel {
    /// What to do.
    pub fn hint(&self) -> String {
        let other = "give the hub's owner/name; `larder models` lists the short names";
        match self.nearest.as_slice() {
            [] => other.to_owned(),
            near => format!("did you mean {}? Or {other}", either(near)),
        }
    }
}

/// The models that are known by name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Registry {
    models: Vec<Model>,
    /// Every name in lower case, with the place of its entry.
    #[serde(skip)]
    names: HashMap<String, usize>,
}

impl Registry {
    /// The entries that come with larder.
    pub fn builtin() -> Self {
        let empty = Self { models: Vec::new(), names: HashMap::new() };
        empty.with_overlay(BUILTIN, "config/models.toml").expect("a test reads the file that is compiled in")
    }

    /// Adds the entries of a TOML file in the shape of `config/models.toml`; `origin` names the file. An entry with the
    /// name or the id of one that is there replaces it as a whole.
    ///
    /// ```
    /// use larder::catalogue::Registry;
    ///
    /// let mine = r#"
    ///     [[model]]
    ///     name = "house-7b"
    ///     id = "our-house/house-7b"
    ///     category = "instruct"
    /// "#;
    /// let registry = Registry::builtin().with_overlay(mine, "models.toml")?;
    /// assert_eq!(registry.get("house-7b").map(|model| model.parameters), Some(None));
    /// # Ok::<(), larder::catalogue::Fault>(())
    /// ```
    pub fn with_overlay(mut self, text: &str, origin: &str) -> Result<Self, Fault> {
        let entries = parse(text, origin)?;
        let mut lines: HashMap<usize, usize> = HashMap::new();
        for (model, line) in entries {
            let fault = |what: String, hint: &str| {
                Fault::new(origin, Some(line), format!("the entry `{}`: {what}", model.name), hint)
            };
            let same: Vec<usize> =
                (0..self.models.len()).filter(|place| replaces(&model, &self.models[*place])).collect();
            let place = match same.as_slice() {
                [] => self.models.len(),
                [one] => *one,
                [one, other, ..] => {
                    let (one, other) = (&self.models[*one].name, &self.models[*other].name);
                    let what = format!("it would replace both `{one}` and `{other}`");
                    return Err(fault(what, "give it the name and the id of one of them"));
                }
            };
            if let Some(first) = lines.insert(place, line) {
                return Err(fault(
                    format!("its name or id stands in line {first} already"),
                    "leave one of them out",
                ));
            }
            if place == self.models.len() {
                self.models.push(model);
            } else {
                self.models[place] = model;
            }
        }
        self.fill_aliases(origin, &lines)?;
        self.index(origin, &lines)?;
        Ok(self)
    }

    /// Gives every alias the facts of the entry that it stands for.
    fn fill_aliases(&mut self, origin: &str, lines: &HashMap<usize, usize>) -> Result<(), Fault> {
        for place in 0..self.models.len() {
            let Some(target) = self.models[place].alias_of.clone() else { continue };
            let same = |m: &&Model| m.alias_of.is_none() && same_text(m.id.as_str(), target.as_str());
            let Some(facts) = self.models.iter().find(same).cloned() else {
                let name = &self.models[place].name;
                let what = format!("the alias `{name}` stands for {target}, which is no entry");
                let hint = format!("add an entry with that id, or an entry of your own called `{name}`");
                return Err(Fault::new(origin, lines.get(&place).copied(), what, hint));
            };
            let alias = &self.models[place];
            self.models[place] = Model {
                name: alias.name.clone(),
                aliases: alias.aliases.clone(),
                alias_of: Some(target),
                category: alias.category,
                prompt: alias.prompt.clone().or(facts.prompt),
                note: alias.note.clone(),
                origin: alias.origin.clone(),
                ..facts
            };
        }
        Ok(())
    }

    fn index(&mut self, origin: &str, lines: &HashMap<usize, usize>) -> Result<(), Fault> {
        self.names.clear();
        for (place, model) in self.models.iter().enumerate() {
            for name in model.names() {
                let other = self.names.insert(name.to_ascii_lowercase(), place);
                let Some(other) = other.filter(|other| *other != place) else { continue };
                let line = lines.get(&place).or(lines.get(&other)).copied();
                let what = format!(
                    "`{}` and `{}` both claim the name `{name}`",
                    self.models[other].name, model.name
                );
                return Err(Fault::new(origin, line, what, "rename one of them"));
            }
        }
        Ok(())
    }

    /// The entry with that short name, alias or hub id, upper and lower case alike. The second half of a hub id will do
    /// where only one entry has it.
    ///
    /// ```
    /// use larder::catalogue::Registry;
    ///
    /// let registry = Registry::builtin();
    /// for name in ["Mistral-7B-v0.1", "mistral-7b", "mistralai/mistral-7b-v0.1"] {
    ///     assert_eq!(registry.get(name).map(|m| m.parameters), Some(Some(7_241_732_096)), "{name}");
    /// }
    /// assert_eq!(registry.get("mistral"), None);
    /// ```
    pub fn get(&self, name: &str) -> Option<&Model> {
        let name = name.trim();
        if let Some(place) = self.names.get(&name.to_ascii_lowercase()) {
            return self.models.get(*place);
        }
        let mut halves = self.models.iter().filter(|m| m.alias_of.is_none() && same_text(m.id.name(), name));
        match (halves.next(), halves.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    /// Like [`get`](Self::get), with the nearest names if there is none.
    pub fn find(&self, name: &str) -> Result<&Model, UnknownModel> {
        self.get(name)
            .ok_or_else(|| UnknownModel { asked: shown(name), nearest: self.nearest(name, OFFERED) })
    }

    /// The model that people mean: `owner/name[@revision]`, or a short name with or without a revision.
    ///
    /// # Errors
    /// As those of a model's name; for a short name that nobody knows the nearest ones.
    pub fn model(&self, text: &str) -> Result<ModelRef, Invalid> {
        if text.contains('/') {
            return text.parse();
        }
        let (name, revision) = match text.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (text, None),
        };
        let id = match self.find(name) {
            Ok(entry) => entry.id.clone(),
            // What is no name at all says so better by itself.
            Err(unknown) if unknown.nearest.is_empty() => return text.parse(),
            Err(unknown) => {
                let what = format!(
                    "`{}` is not a model name, and the registry has no such short name",
                    unknown.asked
                );
                return Err(Invalid::new(what, unknown.hint()));
            }
        };
        match revision {
            Some(revision) => format!("{id}@{revision}").parse(),
            None => Ok(ModelRef::new(id, None)),
        }
    }

    /// The entries of a category, in the order of the file.
    ///
    /// ```
    /// use larder::catalogue::{Category, Registry};
    ///
    /// let registry = Registry::builtin();
    /// let coding: Vec<&str> = registry.by_category(Category::Coding).map(|model| model.name.as_str()).collect();
    /// assert_eq!(coding[..3], ["deepseek-coder-1.3b", "starcoder2-3b", "CodeLlama-7b"]);
    /// ```
    pub fn by_category(&self, category: Category) -> impl Iterator<Item = &Model> {
        self.models.iter().filter(move |model| model.category == category)
    }

    /// The categories, each with the number of its entries.
    pub fn categories(&self) -> Vec<(Category, usize)> {
        Category::ALL.iter().map(|category| (*category, self.by_category(*category).count())).collect()
    }

    /// Up to `n` short names that are most like `name`, the most alike first.
    pub fn nearest(&self, name: &str, n: usize) -> Vec<String> {
        nearest(name, self.models.iter().map(|model| (model.name.as_str(), model.names())), n)
    }

    /// All entries, in the order of the file.
    pub fn models(&self) -> &[Model] {
        &self.models
    }
}

fn same_text(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// An entry takes the place of one with its name, or with its id; an alias claims no id.
fn replaces(new: &Model, old: &Model) -> bool {
    let ids = new.alias_of.is_none() && old.alias_of.is_none();
    same_text(&new.name, &old.name) || (ids && same_text(new.id.as_str(), old.id.as_str()))
}
