//! Which hosts a job goes to: pure, so that the same facts give the same answer wherever it is asked.
//!
//! The best host is, in this order: fit for the model (memory of a GPU, then room on the disk, unknown before no),
//! healthy, in possession of the model, the one with the shortest queue, the one with the most room. A host that has the
//! model already needs no room.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::error::{Error, Result};
use crate::{HostName, HostState, Labels, Reason};

/// Most names in one sentence.
const SHOWN: usize = 8;
/// Names that are as like as this are offered for one that nobody has (Jaro-Winkler, 0 to 1).
const NEAR: f64 = 0.8;

/// What is known of the job.
#[derive(Debug, Clone, Copy, Default)]
pub struct Want {
    /// Bytes that it would put on a disk.
    pub bytes: Option<u64>,
    /// Bytes that its model takes of a GPU.
    pub vram: Option<u64>,
}

/// The host that was chosen, and why in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The host.
    pub host: HostName,
    /// Why.
    pub why: String,
}

/// The hosts with these labels that take jobs, by name.
///
/// # Errors
/// `invalid_request` for labels that no host has, with the nearest that there are; `queue_unavailable` if those that
/// have them take no jobs.
pub(super) fn labelled<'a>(labels: &Labels, hosts: &'a [HostState]) -> Result<Vec<&'a HostState>> {
    let matching: Vec<_> = hosts.iter().filter(|host| labels.select(&host.labels())).collect();
    if matching.is_empty() {
        return Err(unmatched(labels, hosts));
    }
    let mut up: Vec<_> = matching.iter().copied().filter(|host| host.is_up()).collect();
    if up.is_empty() {
        let named = |host: &&HostState| format!("{} ({})", host.name, host.state.word());
        let names: Vec<_> = matching.iter().take(SHOWN).map(named).collect();
        let what = format!("none of these hosts takes jobs: {}", names.join(", "));
        let hint = "see larder hosts; undrain one, or start larder serve there";
        return Err(Error::new(Reason::QueueUnavailable, what, hint));
    }
    up.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(up)
}

/// Why no host with these labels takes jobs, if none does; labels that no host has get the nearest that there are.
pub fn why_nobody(labels: &Labels, hosts: &[HostState]) -> Option<Error> {
    labelled(labels, hosts).err()
}

fn unmatched(labels: &Labels, hosts: &[HostState]) -> Error {
    if hosts.is_empty() {
        let hint = "start larder serve on a host with the same queue.url and queue.namespace";
        return Error::new(Reason::QueueUnavailable, "the fleet has no hosts", hint);
    }
    let all: Vec<Labels> = hosts.iter().map(HostState::labels).collect();
    let there: BTreeSet<String> =
        all.iter().flat_map(|labels| labels.iter().map(|(name, value)| format!("{name}={value}"))).collect();
    let missing =
        labels.iter().map(|(name, value)| format!("{name}={value}")).find(|label| !there.contains(label));
    let (what, near) = match &missing {
        Some(label) => {
            (format!("no host has the label {label}"), nearest(label, there.iter().map(String::as_str)))
        }
        None => (format!("no host has all of {labels}"), Vec::new()),
    };
    let hint = match near.is_empty() {
        true => "see larder hosts for what they have; labels are set in host.labels".to_owned(),
        false => format!("near it: {}; see larder hosts", near.join(", ")),
    };
    Error::new(Reason::InvalidRequest, what, hint)
}

/// The named hosts, which must be known, whether or not they are there.
///
/// # Errors
/// `invalid_request` for a name that the fleet does not know, with the nearest that it does.
pub(super) fn named<'a>(names: &[HostName], hosts: &'a [HostState]) -> Result<Vec<&'a HostState>> {
    let find = |name: &HostName| {
        let known = hosts.iter().find(|host| host.name == *name && host.seen_at.is_some());
        known.ok_or_else(|| {
            let what = format!("no host of the fleet is called {name}");
            Error::new(Reason::InvalidRequest, what, near_hosts(name, hosts))
        })
    };
    names.iter().map(find).collect()
}

/// The error for a host that the fleet does not know.
pub(super) fn stranger(name: &HostName, hosts: &[HostState]) -> Error {
    let what = format!("no host of the fleet is called {name}");
    Error::new(Reason::NotFound, what, near_hosts(name, hosts))
}

/// A hint with the names that are near one that nobody has.
pub fn near_hosts(name: &HostName, hosts: &[HostState]) -> String {
    let seen = hosts.iter().filter(|host| host.seen_at.is_some()).map(|host| host.name.as_str());
    // Who meant one of the words may have mistyped it.
    let near = nearest(name.as_str(), seen.chain(["this", "pool", "best", "all"]));
    match near.is_empty() {
        true => "see larder hosts for their names".to_owned(),
        false => format!("near it: {}; see larder hosts", near.join(", ")),
    }
}

/// At most three texts that are like `text`.
fn nearest<'a>(text: &str, among: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut near: Vec<_> = among.map(|other| (strsim::jaro_winkler(text, other), other)).collect();
    near.retain(|(likeness, _)| *likeness >= NEAR);
    near.sort_by(|(one, a), (other, b)| other.total_cmp(one).then(a.cmp(b)));
    near.into_iter().take(3).map(|(_, other)| other.to_owned()).collect()
}

/// How well a host suits, best first; what is unknown lies between yes and no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Suits {
    Yes,
    Unknown,
    No,
}

impl Suits {
    fn of(known: Option<bool>) -> Self {
        match known {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None => Self::Unknown,
        }
    }
}

/// What is compared, the weightiest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    vram: Suits,
    room: Suits,
    health: Suits,
    lacks: bool,
    jobs: u64,
    free: Reverse<Option<u64>>,
    name: &'a HostName,
}

fn rank<'a>(want: Want, host: &'a HostState, holders: &BTreeSet<HostName>) -> Rank<'a> {
    let about = host.about.as_ref();
    let has = holders.contains(&host.name);
    let free = about.and_then(|about| about.disk.room.map(|room| room + about.disk.evictable.unwrap_or(0)));
    let vram = want.vram.map(|need| {
        let free = about.map(|about| about.gpus.iter().map(|gpu| gpu.memory_free).collect::<Vec<_>>());
        match free {
            Some(gpus) if gpus.iter().any(|free| free.is_some_and(|free| free >= need)) => Suits::Yes,
            Some(gpus) if gpus.iter().all(Option::is_some) => Suits::No,
            _ => Suits::Unknown,
        }
    });
    let room = if has { Some(true) } else { want.bytes.zip(free).map(|(bytes, free)| bytes <= free) };
    let health = about.map(|about| about.health.state.as_str());
    Rank {
        vram: vram.unwrap_or(Suits::Yes),
        room: Suits::of(room),
        health: Suits::of(match health {
            Some("healthy") => Some(true),
            Some("degraded") => Some(false),
            _ => None,
        }),
        lacks: !has,
        jobs: host.queued
            + host.waiting
            + host.running.or(about.map(|about| about.running.len() as u64)).unwrap_or_default(),
        free: Reverse(free),
        name: &host.name,
    }
}

/// The best of the hosts with these labels; `holders` have the model.
///
/// # Errors
/// As [`labelled`].
pub(super) fn best(
    want: Want,
    labels: &Labels,
    hosts: &[HostState],
    holders: &BTreeSet<HostName>,
) -> Result<Chosen> {
    let able = labelled(labels, hosts)?;
    let mut ranks: Vec<_> = able.iter().map(|host| rank(want, host, holders)).collect();
    ranks.sort();
    let Some(first) = ranks.first() else { return Err(unmatched(labels, hosts)) };
    Ok(Chosen { host: first.name.clone(), why: because(first, ranks.get(1), ranks.len()) })
}

/// What sets the first apart from the second.
fn because(first: &Rank<'_>, second: Option<&Rank<'_>>, count: usize) -> String {
    let what = match second {
        None => "it is the only host that takes such a job".to_owned(),
        Some(second) if first.vram != second.vram => match first.vram {
            Suits::Yes => "a GPU of it has room for the model".to_owned(),
            _ => "it may have room on a GPU, which others have not".to_owned(),
        },
        Some(second) if first.room != second.room => match first.room {
            Suits::Yes if !first.lacks => "it has the model already".to_owned(),
            Suits::Yes => "its disk has room for the model".to_owned(),
            _ => "its disk may have room, which others have not".to_owned(),
        },
        Some(second) if first.health != second.health => "it is healthier than the others".to_owned(),
        Some(second) if first.lacks != second.lacks => "it has the model already".to_owned(),
        Some(second) if first.jobs != second.jobs => {
            format!("it has the shortest queue ({} jobs, the next {})", first.jobs, second.jobs)
        }
        Some(second) if first.free != second.free => "its disk has the most room".to_owned(),
        Some(_) => "it is the first by name of equals".to_owned(),
    };
    let doubts =
        [(first.vram, "no GPU has room for it as far as known"), (first.room, "its disk is short of room")];
    let doubts: Vec<_> =
        doubts.iter().filter(|(suits, _)| *suits == Suits::No).map(|(_, doubt)| *doubt).collect();
    let doubts = if doubts.is_empty() { String::new() } else { format!("; but {}", doubts.join(", and ")) };
    format!("best of {count}: {what}{doubts}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostDisk, HostGpu, HostHealth, HostRecord, Presence};
    use proptest::prelude::*;

    fn host(name: &str, with: impl FnOnce(&mut HostState, &mut HostRecord)) -> HostState {
        let mut about = HostRecord {
            health: HostHealth { state: "healthy".into(), reasons: Vec::new() },
            disk: HostDisk { total: Some(1_000), room: Some(500), evictable: Some(0), ..HostDisk::default() },
            gpus: vec![HostGpu { name: "H100".into(), memory_total: Some(80), memory_free: Some(80) }],
            labels: "gpu=h100".parse().expect("labels"),
            ..HostRecord::default()
        };
        let name: HostName = name.parse().expect("a name");
        let seen_at = Some(jiff::Timestamp::UNIX_EPOCH);
        let mut state = HostState {
            name,
            state: Presence::Up,
            seen_at,
            drained: None,
            queued: 0,
            waiting: 0,
            running: None,
            about: None,
        };
        with(&mut state, &mut about);
        state.about = Some(about);
        state
    }

    fn choose(want: Want, hosts: &[HostState], holders: &[&str]) -> Chosen {
        let holders = holders.iter().map(|name| name.parse().expect("a name")).collect();
        best(want, &Labels::default(), hosts, &holders).expect("a host")
    }

    #[test]
    fn the_weightier_fact_decides_and_is_told() {
        let want = Want { bytes: Some(400), vram: Some(60) };
        let plain = |name| host(name, |_, _| {});
        let busy = |name| host(name, |state, _| state.queued = 3);
        let small = |name| host(name, |_, about| about.gpus[0].memory_free = Some(20));
        let full = |name| host(name, |_, about| about.disk.room = Some(10));
        let sick = |name| host(name, |_, about| about.health.state = "degraded".into());
        let roomy = |name| host(name, |_, about| about.disk.evictable = Some(100));
        for (hosts, holders, expected, why) in [
            (vec![plain("a")], vec![], "a", "only host"),
            (vec![plain("a"), plain("b")], vec![], "a", "first by name"),
            (vec![plain("a"), plain("b")], vec!["b"], "b", "has the model already"),
            (vec![plain("a"), roomy("b")], vec![], "b", "most room"),
            (vec![busy("a"), plain("b")], vec![], "b", "shortest queue (0 jobs, the next 3)"),
            (vec![busy("a"), plain("b")], vec!["a"], "a", "has the model already"),
            (vec![sick("a"), busy("b")], vec!["a"], "b", "healthier"),
            (vec![full("a"), sick("b")], vec![], "b", "disk has room"),
            (vec![full("a"), plain("b")], vec!["a"], "a", "has the model already"),
            (vec![small("a"), full("b")], vec!["a"], "b", "a GPU of it has room"),
            (vec![full("a")], vec![], "a", "but its disk is short of room"),
        ] {
            let chosen = choose(want, &hosts, &holders);
            assert_eq!(chosen.host.as_str(), expected, "{}", chosen.why);
            assert!(chosen.why.contains(why), "{}", chosen.why);
        }
    }

    #[test]
    fn whoever_takes_no_jobs_is_not_chosen_and_says_so() {
        let gone = |name| host(name, |state, _| state.state = Presence::Gone);
        let drained = |name| host(name, |state, _| state.state = Presence::Drained);
        let plain = host("c", |_, _| {});
        assert_eq!(choose(Want::default(), &[gone("a"), drained("b"), plain], &["a"]).host.as_str(), "c");
        let none = |hosts: &[HostState], labels: &str| {
            best(Want::default(), &labels.parse().expect("labels"), hosts, &BTreeSet::new())
                .expect_err("nobody")
        };
        let error = none(&[gone("a"), drained("b")], "");
        assert_eq!(error.reason(), Reason::QueueUnavailable);
        assert!(error.what().ends_with("a (gone), b (drained)"), "{error:?}");
        assert_eq!(none(&[], "").reason(), Reason::QueueUnavailable);
        let error = none(&[gone("a")], "gpu=h10");
        assert_eq!(error.reason(), Reason::InvalidRequest);
        assert!(error.hint().contains("gpu=h100"), "{error:?}");
    }

    #[test]
    fn a_name_that_nobody_has_gets_the_nearest() {
        let hosts = [host("gpu-1", |_, _| {}), host("gpu-2", |_, _| {}), host("cpu-node", |_, _| {})];
        let names: Vec<HostName> = vec!["gpu-1".parse().expect("a name"), "gpu-9".parse().expect("a name")];
        let error = named(&names, &hosts).expect_err("gpu-9 is unknown");
        assert_eq!(
            (error.what(), error.reason()),
            ("no host of the fleet is called gpu-9", Reason::InvalidRequest)
        );
        assert!(error.hint().starts_with("near it: gpu-1, gpu-2;"), "{}", error.hint());
        assert_eq!(named(&names[..1], &hosts).expect("known").len(), 1);
    }

    proptest! {
        /// Whoever is chosen takes jobs, and a host that could take the model is never passed over for one that cannot.
        #[test]
        fn nobody_is_chosen_who_cannot(
            rooms in prop::collection::vec((0_u64..4, 0_u64..4, 0_u64..3, any::<bool>()), 1..8),
            need in 0_u64..4,
        ) {
            let hosts: Vec<_> = rooms.iter().enumerate().map(|(n, (room, vram, queued, up))| {
                host(&format!("h{n}"), |state, about| {
                    state.state = if *up { Presence::Up } else { Presence::Gone };
                    state.queued = *queued;
                    about.disk = HostDisk { total: Some(4), room: Some(*room), evictable: None, ..HostDisk::default() };
                    about.gpus[0].memory_free = Some(*vram);
                })
            }).collect();
            let want = Want { bytes: Some(need), vram: Some(need) };
            let fits = |host: &HostState| {
                let about = host.about.as_ref().expect("said");
                host.is_up() && about.disk.room >= Some(need) && about.gpus[0].memory_free >= Some(need)
            };
            match best(want, &Labels::default(), &hosts, &BTreeSet::new()) {
                Ok(chosen) => {
                    let host = hosts.iter().find(|host| host.name == chosen.host).expect("one of them");
                    prop_assert!(host.is_up());
                    prop_assert!(fits(host) || !hosts.iter().any(fits), "{}", chosen.why);
                }
                Err(_) => prop_assert!(!hosts.iter().any(HostState::is_up)),
            }
        }
    }
}
