//! The card that a model shall run on: this host's GPU as it is now, a card of the table, or so many bytes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Scout;
use super::ask::Purpose;
use crate::catalogue::Cards;
use crate::error::{Error, Result, blocking};
use crate::fit::{Budget, Capability};
use crate::gpu::snapshot::{ComputeCapability, MigInstance};
use crate::gpu::{self, Gpu, Gpus};
use larder_jobs::{HostGpu, Reason};

/// How long a look at the GPUs may take.
const LOOK: std::time::Duration = std::time::Duration::from_secs(5);

/// Where the size of a card comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetSource {
    /// Free at this moment on this host's GPU.
    FreeNow,
    /// What such a card has for use.
    Table,
    /// Somebody said so.
    Given,
    /// Nobody knows.
    Unknown,
}

/// A card, or several equal ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FitTarget")]
pub struct Target {
    /// The product.
    pub name: Option<String>,
    /// Bytes of each that a model may take.
    pub budget_bytes: Option<u64>,
    /// Where that comes from.
    pub source: TargetSource,
    /// CUDA's compute capability.
    pub compute_capability: Option<ComputeCapability>,
    /// How many of them share the model.
    pub gpus: u64,
    /// Why nothing is known of it, if so.
    pub why_unknown: Option<String>,
}

impl Target {
    pub(super) fn capability(&self) -> Option<Capability> {
        self.compute_capability.map(|of| Capability(of.major, of.minor))
    }

    pub(super) fn budget(&self) -> Budget {
        Budget { bytes: self.budget_bytes }
    }

    /// For sentences: `RTX 4090`, `a card of 24.0 GiB`, `this host's GPU`.
    pub fn called(&self) -> String {
        let one = match (&self.name, self.budget_bytes) {
            (Some(name), _) => name.clone(),
            (None, Some(bytes)) => format!("a card of {}", larder_jobs::Size(bytes)),
            (None, None) => "this host's GPU".into(),
        };
        if self.gpus > 1 { format!("{} x {one}", self.gpus) } else { one }
    }
}

impl Scout {
    /// The card that is meant.
    ///
    /// # Errors
    /// `invalid_request` for a card that the table does not know, with the nearest names.
    pub(super) async fn target(&self, purpose: &Purpose) -> Result<Target> {
        let gpus = purpose.gpus.unwrap_or(1);
        if let Some(bytes) = purpose.vram {
            return Ok(Target {
                name: None,
                budget_bytes: Some(bytes),
                source: TargetSource::Given,
                compute_capability: None,
                gpus,
                why_unknown: None,
            });
        }
        if let Some(name) = &purpose.gpu {
            return self.card(name, gpus);
        }
        Ok(of_this_host(&*self.gpus().await?, gpus))
    }

    /// This host's GPU as it is now.
    ///
    /// # Errors
    /// `internal` if the look died.
    pub async fn own_target(&self) -> Result<Target> {
        self.target(&Purpose::default()).await
    }

    /// The GPU of another host that said what it has; its generation is that of the card of its name.
    pub fn target_of(&self, gpus: &[HostGpu]) -> Target {
        of_another_host(gpus, &self.cards)
    }

    fn card(&self, name: &str, gpus: u64) -> Result<Target> {
        let card = self.cards.get(name).map_err(|unknown| {
            Error::new(Reason::InvalidRequest, unknown.to_string(), unknown.hint())
                .or("give its memory with --vram")
        })?;
        let compute = card.compute_capability;
        Ok(Target {
            name: Some(card.name.clone()),
            budget_bytes: card.usable_bytes(),
            source: TargetSource::Table,
            compute_capability: Some(ComputeCapability { major: compute.major, minor: compute.minor }),
            gpus,
            why_unknown: None,
        })
    }

    /// The GPUs of this host: those that a thread of this process watches, else one look at them.
    pub async fn gpus(&self) -> Result<std::sync::Arc<Gpus>> {
        match &self.watched {
            Some(handle) => Ok(handle.latest()),
            None => {
                let config = self.gpu_config.clone();
                blocking(move || Ok(std::sync::Arc::new(gpu::once(&config, LOOK)))).await
            }
        }
    }
}

/// What a model can be given: a GPU, or a part of one that is divided.
struct Place<'a> {
    name: Option<&'a str>,
    total: Option<u64>,
    free: Option<u64>,
    capability: Option<ComputeCapability>,
}

/// The places that a GPU has. Of a divided one nobody gets the whole.
fn places(gpu: &Gpu) -> Vec<Place<'_>> {
    let (name, capability) = (gpu.name.as_deref(), gpu.compute_capability);
    match gpu.mig.as_ref().filter(|mig| mig.enabled) {
        Some(mig) => {
            let part = |part| place_of(part, name, capability);
            mig.instances.iter().map(part).collect()
        }
        None => vec![Place { name, total: gpu.memory.total, free: gpu.memory.free, capability }],
    }
}

fn place_of<'a>(
    part: &'a MigInstance,
    whole: Option<&'a str>,
    capability: Option<ComputeCapability>,
) -> Place<'a> {
    let name = part.name.as_deref().or(whole);
    Place { name, total: part.memory.total, free: part.memory.free, capability }
}

/// The freest of this host's GPUs or parts of them, or as many equal ones as are asked for.
fn of_this_host(gpus: &Gpus, wanted: u64) -> Target {
    let unknown = |why: String| Target {
        name: None,
        budget_bytes: None,
        source: TargetSource::Unknown,
        compute_capability: None,
        gpus: wanted,
        why_unknown: Some(why),
    };
    if gpus.devices.is_empty() {
        let why = gpus.why_none.as_ref();
        return unknown(
            why.map_or_else(|| "no GPU was found".into(), |why| format!("{}; {}", why.what, why.hint)),
        );
    }
    if gpus.stale {
        // What was free then is no budget now.
        let at = gpus.taken_at;
        return unknown(format!(
            "the GPUs have not been read since {at}, so nobody knows what is free; see `larder info`"
        ));
    }
    let mut alive: Vec<Place<'_>> = gpus.devices.iter().filter(|gpu| !gpu.lost).flat_map(places).collect();
    alive.sort_by_key(|place| std::cmp::Reverse(place.free));
    let Some(first) = alive.first() else {
        return unknown("every GPU of this host is lost, or divided into no parts".into());
    };
    let equal = alive.iter().filter(|place| place.name == first.name && place.total == first.total);
    let chosen: Vec<_> = equal.take(usize::try_from(wanted).unwrap_or(usize::MAX)).collect();
    if u64::try_from(chosen.len()).unwrap_or(0) < wanted {
        return unknown(format!("this host has no {wanted} equal GPUs"));
    }
    Target {
        name: first.name.map(str::to_owned),
        budget_bytes: chosen.iter().map(|place| place.free).min().flatten(),
        source: TargetSource::FreeNow,
        compute_capability: first.capability,
        gpus: wanted,
        why_unknown: None,
    }
}

/// The freest GPU of a host that said what it has.
fn of_another_host(gpus: &[HostGpu], cards: &Cards) -> Target {
    let first = gpus.iter().max_by_key(|gpu| gpu.memory_free);
    let name = first.map(|gpu| gpu.name.clone()).filter(|name| !name.is_empty());
    let compute = name.as_deref().and_then(|name| Some(cards.get(name).ok()?.compute_capability));
    let why = first.is_none().then(|| "that host has no GPU that can be reached".to_owned());
    Target {
        budget_bytes: first.and_then(|gpu| gpu.memory_free),
        source: if first.is_some() { TargetSource::FreeNow } else { TargetSource::Unknown },
        compute_capability: compute.map(|of| ComputeCapability { major: of.major, minor: of.minor }),
        gpus: 1,
        why_unknown: why,
        name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::DeviceKind;
    use crate::gpu::snapshot::{Memory, Missing, WhyNone};

    fn gpu(index: u32, name: &str, free: Option<u64>) -> Gpu {
        let memory = Memory { total: Some(100), free, ..Memory::default() };
        Gpu { name: Some(name.into()), memory, ..Gpu::unknown(index, DeviceKind::Cuda) }
    }

    fn gpus(devices: Vec<Gpu>) -> Gpus {
        let why = WhyNone { word: Missing::NoLibrary, what: "no library".into(), hint: "install it".into() };
        Gpus { devices, ..Gpus::none(why, jiff::Timestamp::UNIX_EPOCH) }
    }

    #[test]
    fn the_freest_gpu_is_meant_and_of_several_the_fullest_counts() {
        let two = gpus(vec![gpu(0, "a", Some(10)), gpu(1, "a", Some(70)), gpu(2, "b", Some(90))]);
        let one = of_this_host(&two, 1);
        assert_eq!((one.name.as_deref(), one.budget_bytes), (Some("b"), Some(90)));
        let pair = of_this_host(&gpus(two.devices[..2].to_vec()), 2);
        assert_eq!((pair.budget_bytes, pair.called().as_str()), (Some(10), "2 x a"));
        assert_eq!(of_this_host(&two, 2).source, TargetSource::Unknown);
    }

    #[test]
    fn what_is_not_known_is_no_zero() {
        let none = of_this_host(&gpus(Vec::new()), 1);
        assert_eq!((none.budget_bytes, none.source), (None, TargetSource::Unknown));
        assert!(none.why_unknown.is_some_and(|why| why.contains("install it")));
        assert_eq!(of_this_host(&gpus(vec![gpu(0, "a", None)]), 1).budget_bytes, None);
        let lost = Gpu { lost: true, ..gpu(0, "a", Some(5)) };
        assert_eq!(of_this_host(&gpus(vec![lost]), 1).budget_bytes, None);
        let stale = Gpus { stale: true, ..gpus(vec![gpu(0, "a", Some(5))]) };
        let target = of_this_host(&stale, 1);
        assert_eq!((target.budget_bytes, target.source), (None, TargetSource::Unknown));
    }

    #[test]
    fn another_hosts_freest_gpu_is_meant_and_its_card_is_known_by_name() {
        let cards = Cards::builtin();
        let gpu =
            |name: &str, free| HostGpu { name: name.into(), memory_total: Some(100), memory_free: free };
        let two = [gpu("NVIDIA A100 80GB PCIe", Some(10)), gpu("NVIDIA H100 80GB HBM3", Some(70))];
        let target = of_another_host(&two, &cards);
        assert_eq!((target.budget_bytes, target.source), (Some(70), TargetSource::FreeNow));
        assert_eq!(target.capability(), Some(Capability(9, 0)), "{target:?}");
        let silent = of_another_host(&[gpu("NVIDIA H100 80GB HBM3", None)], &cards);
        assert_eq!((silent.budget_bytes, silent.source), (None, TargetSource::FreeNow));
        assert_eq!(of_another_host(&[], &cards).source, TargetSource::Unknown);
    }
}
