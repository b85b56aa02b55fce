//! The list of cards, and how one is found by the many names that it goes by.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::find::{either, nearest, shown};

/// The cards that come with larder.
const BUILTIN: &str = include_str!("../../config/gpus.toml");
/// How many names are offered for one that is not known.
const OFFERED: usize = 3;
/// Bytes of a GiB.
const GIB: f64 = (1_u64 << 30) as f64;
/// Characters of a name that are looked at.
const LONGEST: usize = 200;
/// Words in front of a card's own name, and behind it, that tell nothing.
const IN_FRONT: &[&str] = &["nvidia", "geforce", "tesla", "quadro", "rtx"];
const BEHIND: &[&str] = &["gpu", "generation", "edition", "workstation", "server"];
/// What a driver may report of a card's memory, as a share of its printed GB in GiB.
const REPORTED: std::ops::RangeInclusive<f64> = 0.85..=1.05;

/// CUDA's compute capability; printed as `9.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ComputeCapability {
    /// The generation.
    pub major: u32,
    /// Within it.
    pub minor: u32,
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// Graphics memory.
    Gddr,
    /// Graphics memory with error correction on as delivered, which takes a part of it.
    GddrEcc,
    /// Stacked memory, which corrects errors by itself.
    Hbm,
    /// The system's memory, shared with the CPU.
    Unified,
}

/// Where the usable memory is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsableFrom {
    /// Read from such a card.
    Observed,
    /// Printed memory times the lowest share that cards of its kind have shown.
    Estimated,
}

/// The slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pcie {
    /// PCI Express generation.
    pub generation: u32,
    /// Lanes, if known.
    pub lanes: Option<u32>,
}

/// One card.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Card {
    /// The name.
    pub name: String,
    /// Further names.
    pub aliases: Vec<String>,
    /// CUDA compute capability.
    pub compute_capability: ComputeCapability,
    /// GB as printed on the box.
    pub memory_gb: u32,
    /// What the memory is made of.
    pub memory: Memory,
    /// Memory that a driver reports, in GiB. Never known for unified memory.
    pub usable_gib: Option<f64>,
    /// Where that is known from.
    pub usable_from: Option<UsableFrom>,
    /// Memory bandwidth in GB/s.
    pub bandwidth_gb_s: Option<f64>,
    /// The slot.
    pub pcie: Option<Pcie>,
}

impl Card {
    /// Memory that a driver reports, in bytes.
    pub fn usable_bytes(&self) -> Option<u64> {
        self.usable_gib.map(|gib| (gib * GIB) as u64)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

/// A name that no card has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no card is called `{asked}`")]
pub struct UnknownCard {
    /// The name, shortened for a message.
    pub asked: String,
    /// Names that are alike, the most alike first.
    pub nearest: Vec<String>,
}

impl UnknownCard {
    /// What to do.
    pub fn hint(&self) -> String {
        let other = "give its memory with --vram";
        match self.nearest.as_slice() {
            [] => other.to_owned(),
            near => format!("did you mean {}? Or {other}", either(near)),
        }
    }
}

/// The cards that are known by name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cards {
    cards: Vec<Card>,
}

impl Cards {
    /// The cards that come with larder.
    pub fn builtin() -> Self {
        Self::parse(BUILTIN, "config/gpus.toml").expect("a test reads the file that is compiled in")
    }

    pub(super) fn parse(text: &str, origin: &str) -> Result<Self, Fault> {
        let file: File = toml::from_str(text).map_err(|error| Fault::toml(origin, text, &error))?;
        let mut cards: Vec<Card> = Vec::new();
        for row in file.card {
            let name = shown(&row.name);
            let card = row.check(&file.estimate).map_err(|what| {
                Fault::new(origin, None, format!("the card `{name}`: {what}"), "correct that line")
            })?;
            let taken = |other: &&Card| {
                other.memory_gb == card.memory_gb
                    && card.names().any(|name| {
                        other.names().any(|taken| Asked::new(taken).core == Asked::new(name).core)
                    })
            };
            if let Some(other) = cards.iter().find(taken) {
                let what = format!("the cards `{}` and `{name}` share a name and their memory", other.name);
                return Err(Fault::new(origin, None, what, "rename one of them"));
            }
            cards.push(card);
        }
        Ok(Self { cards })
    }

    /// The card of that name, as people write it (`4090`, `rtx4090`, `RTX 4090 24GB`) or as the driver does
    /// (`NVIDIA H100 80GB HBM3`). Where cards of that name differ in memory, the one with the least is meant unless the
    /// name says how much.
    ///
    /// ```
    /// use larder::catalogue::Cards;
    ///
    /// let cards = Cards::builtin();
    /// assert_eq!(cards.get("rtx-4090 24gb")?.usable_gib, Some(23.5));
    /// assert_eq!(cards.get("NVIDIA A100-SXM4-80GB")?.name, "A100 80GB SXM");
    /// assert_eq!(cards.get("RTX 4060 Ti")?.memory_gb, 8);
    /// assert_eq!(cards.get("RTX 4060 Ti 16GB")?.memory_gb, 16);
    /// assert_eq!(cards.get("RTX 4070 Ti")?.memory_gb, 12);
    /// assert_eq!(cards.get("RTX 4070 Ti SUPER")?.memory_gb, 16);
    /// # Ok::<(), larder::catalogue::UnknownCard>(())
    /// ```
    pub fn get(&self, name: &str) -> Result<&Card, UnknownCard> {
        self.pick(name, |_| true)
    }

    /// The card that a driver calls so and whose total memory in GiB is that: cards of one name are told apart by it, and
    /// one that has been given other memory is not taken for the usual one.
    pub fn detect(&self, name: &str, total_gib: Option<f64>) -> Result<&Card, UnknownCard> {
        let total = total_gib.filter(|gib| gib.is_finite() && *gib > 0.0);
        self.pick(name, |card| {
            let share = total.map(|total| total / f64::from(card.memory_gb));
            card.memory == Memory::Unified || share.is_none_or(|share| REPORTED.contains(&share))
        })
    }

    fn pick(&self, name: &str, fits: impl Fn(&Card) -> bool) -> Result<&Card, UnknownCard> {
        let asked = Asked::new(name);
        let same = |card: &&Card| {
            !asked.core.is_empty()
                && asked.memory_gb.is_none_or(|gb| gb == card.memory_gb)
                && card.names().any(|name| Asked::new(name).core == asked.core)
                && fits(card)
        };
        self.cards
            .iter()
            .filter(same)
            .min_by_key(|card| card.memory_gb)
            .ok_or_else(|| UnknownCard { asked: shown(name), nearest: self.nearest(name, OFFERED) })
    }

    /// Up to `n` names that are most like `name`, the most alike first.
    pub fn nearest(&self, name: &str, n: usize) -> Vec<String> {
        let core = Asked::new(name).core;
        let names: Vec<(String, Vec<String>)> = self
            .cards
            .iter()
            .map(|card| (card.name.clone(), card.names().map(|name| Asked::new(name).core).collect()))
            .collect();
        nearest(&core, names.iter().map(|(name, cores)| (name.as_str(), cores.iter().map(String::as_str))), n)
    }

    /// All cards, in the order of the file.
    pub fn cards(&self) -> &[Card] {
        &self.cards
    }
}

/// A name without what people and drivers write around it.
struct Asked {
    /// What tells the card, letters and digits only: `4070tisuper`.
    core: String,
    /// The memory that the name says.
    memory_gb: Option<u32>,
}

impl Asked {
    fn new(name: &str) -> Self {
        let lower: String = name.chars().take(LONGEST).map(|c| c.to_ascii_lowercase()).collect();
        let tokens: Vec<&str> =
            lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|token| !token.is_empty()).collect();
        let (mut core, mut memory_gb) = (String::new(), None);
        let mut rest = tokens.iter().peekable();
        while let Some(token) = rest.next() {
            let digits = token.strip_suffix("gib").or_else(|| token.strip_suffix("gb"));
            let apart = rest.peek().is_some_and(|next| matches!(**next, "gb" | "gib"));
            match digits.or(apart.then_some(*token)).and_then(|digits| digits.parse().ok()) {
                Some(gb) if memory_gb.is_none_or(|known| known == gb) => {
                    memory_gb = Some(gb);
                    if apart {
                        rest.next();
                    }
                }
                _ => core.push_str(token),
            }
        }
        let mut core = core.as_str();
        while let Some(rest) = IN_FRONT.iter().find_map(|word| core.strip_prefix(word)) {
            core = rest;
        }
        while let Some(rest) = BEHIND.iter().find_map(|word| core.strip_suffix(word)) {
            core = rest;
        }
        Self { core: core.to_owned(), memory_gb }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    estimate: Estimate,
    card: Vec<Row>,
}

/// Usable GiB per printed GB, where nobody has looked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Estimate {
    gddr: f64,
    gddr_ecc: f64,
    hbm: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    compute: String,
    memory_gb: u32,
    memory: Memory,
    usable_gib: Option<f64>,
    bandwidth: Option<f64>,
    pcie: Option<String>,
}

impl Row {
    fn check(self, estimate: &Estimate) -> Result<Card, String> {
        let compute = self.compute.split_once('.').and_then(|(major, minor)| {
            Some(ComputeCapability { major: major.parse().ok()?, minor: minor.parse().ok()? })
        });
        let compute_capability = compute.ok_or_else(|| format!("`compute` is {}", self.compute))?;
        let printed = f64::from(self.memory_gb);
        let factor = match self.memory {
            Memory::Gddr => Some(estimate.gddr),
            Memory::GddrEcc => Some(estimate.gddr_ecc),
            Memory::Hbm => Some(estimate.hbm),
            Memory::Unified => None,
        };
        let estimated = factor.map(|factor| (printed * factor * 100.0).floor() / 100.0);
        let usable_from = match (self.usable_gib, estimated) {
            (Some(_), _) => Some(UsableFrom::Observed),
            (None, Some(_)) => Some(UsableFrom::Estimated),
            (None, None) => None,
        };
        let usable_gib = self.usable_gib.or(estimated);
        if usable_gib.is_some_and(|gib| !REPORTED.contains(&(gib / printed))) {
            return Err(format!("`usable_gib` does not go with {printed} GB"));
        }
        if self.bandwidth.is_some_and(|speed| !(1.0..=1e6).contains(&speed)) {
            return Err("`bandwidth` is not a number of GB/s".to_owned());
        }
        let pcie = self.pcie.as_deref().map(slot).transpose()?;
        Ok(Card {
            name: self.name,
            aliases: self.aliases,
            compute_capability,
            memory_gb: self.memory_gb,
            memory: self.memory,
            usable_gib,
            usable_from,
            bandwidth_gb_s: self.bandwidth,
            pcie,
        })
    }
}

/// `4.0 x16`, or `4.0` where the lanes differ from machine to machine.
fn slot(text: &str) -> Result<Pcie, String> {
    let (generation, lanes) = match text.split_once(" x") {
        Some((generation, lanes)) => (generation, Some(lanes)),
        None => (text, None),
    };
    let generation = generation.strip_suffix(".0").and_then(|n| n.parse().ok());
    let lanes = lanes.map(|n| n.parse().map_err(|_| format!("`pcie` is {text}"))).transpose()?;
    Ok(Pcie { generation: generation.ok_or_else(|| format!("`pcie` is {text}"))?, lanes })
}
