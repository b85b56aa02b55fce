//! What a model of a manifest means for this host and for the others: the hub is asked once, and where its variant is
//! chosen by the GPU, it is chosen here by the same rule for the GPUs that the others said they have.

use std::collections::{BTreeMap, BTreeSet};

use larder_jobs::{Class, Download, HostName, HostState, Hosts, Reason, Variant};
use tokio_util::sync::CancellationToken;

use super::super::planned::{Planned, size};
use super::Context;
use crate::error::{Error, Result};
use crate::plan::{Name, Need};
use crate::scout::{Target, TargetSource};
use crate::warm::Wish;

/// The GPUs of this host and of the others.
pub(super) struct Cards {
    /// Each kind of GPU, that of this host first; hosts with equal ones choose the same.
    kinds: Vec<Target>,
    /// For each of the other hosts the number of its kind.
    others: Vec<usize>,
}

impl Cards {
    pub(super) async fn of(context: &Context, others: &[HostState]) -> Result<Self> {
        let mut kinds = vec![context.scout.own_target().await?];
        let mut kind = |host: &HostState| {
            let gpus = host.about.as_ref().map_or(&[][..], |about| &about.gpus);
            let target = context.scout.target_of(gpus);
            kinds.iter().position(|known| *known == target).unwrap_or_else(|| {
                kinds.push(target);
                kinds.len() - 1
            })
        };
        let others = others.iter().map(&mut kind).collect();
        Ok(Self { kinds, others })
    }
}

/// What a model is for hosts of one kind.
#[derive(Debug, Clone)]
enum Found {
    Sized {
        name: Name,
        total: u64,
    },
    /// Whether it may be so on this host only: its token, its GPU, its disk.
    Unfit {
        why: String,
        is_local: bool,
    },
    Unknown(String),
}

/// What is known of one model.
pub(super) struct Looked {
    /// What it means for this host.
    pub(super) need: Need,
    /// What it is for hosts like this one.
    own: Found,
    /// What it is for each of the others, if that is something else.
    others: Vec<Found>,
}

impl Looked {
    fn of(planned: Result<Planned>) -> Self {
        let own = Found::of(&planned);
        let need = match (&own, &planned) {
            (Found::Unfit { why, .. }, _) => Need::Unfit(why.clone()),
            (Found::Unknown(why), _) => Need::Unknown(why.clone()),
            (_, Ok(planned)) if planned.is_satisfied() => Need::There { bytes: planned.plan.bytes_total },
            (_, Ok(planned)) => {
                Need::Fetch { bytes: planned.plan.bytes_to_fetch, disk: planned.plan.disk_needed }
            }
            (_, Err(error)) => Need::Unknown(error.message()),
        };
        Self { need, own, others: Vec::new() }
    }

    /// Every revision that it may be somewhere.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.own).chain(&self.others).filter_map(|found| match found {
            Found::Sized { name, .. } => Some(name),
            _ => None,
        })
    }

    /// What it means for another host, by its number.
    pub(super) fn elsewhere(&self, n: usize, host: &HostName, held: &BTreeSet<(HostName, Name)>) -> Need {
        match self.others.get(n).unwrap_or(&self.own) {
            Found::Sized { name, total } => match held.contains(&(host.clone(), name.clone())) {
                true => Need::There { bytes: *total },
                false => Need::Fetch { bytes: *total, disk: *total },
            },
            Found::Unfit { why, is_local: true } => {
                Need::Unknown(format!("it may be otherwise on that host; on this one: {why}"))
            }
            Found::Unfit { why, .. } => Need::Unfit(why.clone()),
            Found::Unknown(why) => Need::Unknown(why.clone()),
        }
    }
}

impl Found {
    fn of(planned: &Result<Planned>) -> Self {
        match planned {
            Ok(planned) => Self::Sized {
                name: (planned.repo.clone(), planned.commit.clone()),
                total: planned.plan.bytes_total,
            },
            Err(error) if error.reason().class() == Class::Permanent => {
                let is_local = matches!(
                    error.reason(),
                    Reason::Unauthorized
                        | Reason::Gated
                        | Reason::InsufficientVram
                        | Reason::IncompatibleGpu
                        | Reason::InsufficientDisk
                );
                Self::Unfit { why: error.message(), is_local }
            }
            Err(error) => Self::Unknown(error.message()),
        }
    }
}

pub(super) async fn look(context: &Context, wish: &Wish, cards: &Cards, stop: &CancellationToken) -> Looked {
    match variants(context, wish, cards, stop).await {
        Ok(looked) => looked,
        Err(error) => Looked::of(Err(error)),
    }
}

async fn variants(context: &Context, wish: &Wish, cards: &Cards, stop: &CancellationToken) -> Result<Looked> {
    let want = &wish.download;
    let context = &context.with_token_of(want)?;
    if want.variant == Variant::Exact {
        return Ok(Looked::of(size(context, want, stop).await));
    }
    let kinds = if wish.hosts == Hosts::This { &cards.kinds[..1] } else { &cards.kinds[..] };
    let mut chosen = context.scout.choose_for(want, kinds, stop).await?.into_iter();
    let own = match chosen.next() {
        Some(Ok(own)) => size(context, &own, stop).await,
        Some(Err(error)) => Err(error),
        None => Err(Error::internal("no variant was chosen for this host")),
    };
    let mut looked = Looked::of(own);
    let (mut found, mut sizes) = (vec![looked.own.clone()], BTreeMap::new());
    for (one, kind) in chosen.zip(kinds.iter().skip(1)) {
        found.push(of_kind(context, one, kind, &mut sizes, stop).await);
    }
    if kinds.len() == cards.kinds.len() {
        looked.others = cards.others.iter().map(|kind| found[*kind].clone()).collect();
    }
    Ok(looked)
}

/// What is staged on other hosts of a kind; their hub and their token may be others, their GPU was judged.
async fn of_kind(
    context: &Context,
    chosen: Result<Download>,
    kind: &Target,
    sizes: &mut BTreeMap<String, Found>,
    stop: &CancellationToken,
) -> Found {
    match chosen {
        _ if kind.source == TargetSource::FreeNow && kind.budget_bytes.is_none() => Found::Unknown(
            "that host chooses the variant by its own GPU, of which it does not say what is free".into(),
        ),
        Ok(want) => {
            let key = want.want();
            if let Some(known) = sizes.get(&key) {
                return known.clone();
            }
            let found = Found::of(&size(context, &want, stop).await);
            sizes.insert(key, found.clone());
            found
        }
        Err(error) if error.reason().class() == Class::Permanent => {
            Found::Unfit { why: error.message(), is_local: false }
        }
        Err(error) => Found::Unknown(error.message()),
    }
}
