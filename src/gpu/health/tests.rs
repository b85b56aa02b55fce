//! Each sign alone makes the verdict that it should, and nothing else does.

use super::*;
use crate::gpu::snapshot::{DeviceKind, Ecc, EccErrors, Missing, RemappedRows, Source, WhyNone, Xids};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("in range")
}

fn gpu() -> Gpu {
    Gpu { uuid: Some("GPU-1".into()), ..Gpu::unknown(0, DeviceKind::Cuda) }
}

fn gpus(devices: Vec<Gpu>) -> Gpus {
    let why = WhyNone { word: Missing::NoLibrary, what: "no library".into(), hint: "none".into() };
    let none = Gpus::none(why, now());
    if devices.is_empty() { none } else { Gpus { source: Source::Nvml, why_none: None, devices, ..none } }
}

fn words(health: &Health) -> (State, Vec<Word>) {
    (health.state, health.reasons.iter().map(|reason| reason.word).collect())
}

fn host(gpus: &Gpus, cache: Option<bool>, drives: &[Drive<'_>]) -> (State, Vec<Word>) {
    words(&of_host(&Signs { gpus, now: now(), cache: ("/cache", cache), drives }))
}

fn with_xid(code: u64, seconds_ago: i64) -> Gpu {
    let mut xids = Xids::since(now());
    xids.push(code, Timestamp::from_second(now().as_second() - seconds_ago).expect("in range"));
    Gpu { xid: Some(xids), ..gpu() }
}

#[test]
fn each_sign_of_a_gpu_degrades_it() {
    let rows = RemappedRows { correctable: 3, uncorrectable: 1, pending: false, failure: false };
    let ecc = |uncorrected| Ecc {
        volatile: EccErrors { corrected: Some(9), uncorrected },
        aggregate: EccErrors { corrected: Some(9), uncorrected: Some(2) },
        ..Ecc::default()
    };
    let slow = |reason| Some(vec![Throttle::SwPowerCap, reason]);
    for (bad, word) in [
        (Gpu { lost: true, ..gpu() }, Word::GpuLost),
        (Gpu { reset_required: true, ..gpu() }, Word::GpuResetRequired),
        (Gpu { ecc: Some(ecc(Some(1))), ..gpu() }, Word::EccUncorrected),
        (Gpu { remapped_rows: Some(RemappedRows { pending: true, ..rows }), ..gpu() }, Word::RowRemapPending),
        (Gpu { remapped_rows: Some(RemappedRows { failure: true, ..rows }), ..gpu() }, Word::RowRemapFailure),
        (Gpu { throttle_reasons: slow(Throttle::HwThermalSlowdown), ..gpu() }, Word::ThermalSlowdown),
        (Gpu { throttle_reasons: slow(Throttle::HwPowerBrakeSlowdown), ..gpu() }, Word::PowerBrake),
        (Gpu { throttle_reasons: slow(Throttle::HwSlowdown), ..gpu() }, Word::HardwareSlowdown),
        (with_xid(79, 0), Word::Xid),
        (with_xid(48, 86_399), Word::Xid),
    ] {
        let health = of_gpu(&bad, now());
        assert_eq!(words(&health), (State::Degraded, vec![word]));
        assert!(health.reasons.iter().all(|reason| reason.subject == "GPU-1" && !reason.hint.is_empty()));
        assert_eq!(host(&gpus(vec![gpu(), bad]), None, &[]), (State::Degraded, vec![word]));
    }
    for fine in [
        gpu(),
        Gpu { ecc: Some(ecc(Some(0))), ..gpu() },
        Gpu { ecc: Some(ecc(None)), ..gpu() },
        Gpu { remapped_rows: Some(rows), ..gpu() },
        Gpu { throttle_reasons: slow(Throttle::SwThermalSlowdown), ..gpu() },
        with_xid(31, 0),
        with_xid(79, 86_400),
    ] {
        assert_eq!(words(&of_gpu(&fine, now())), (State::Healthy, vec![]), "{fine:?}");
    }
}

#[test]
fn an_xid_that_nobody_explains_is_unknown_unless_something_is_wrong() {
    assert_eq!(words(&of_gpu(&with_xid(171, 5), now())), (State::Unknown, vec![Word::XidUnclassified]));
    let lost = Gpu { lost: true, ..with_xid(171, 5) };
    assert_eq!(words(&of_gpu(&lost, now())), (State::Degraded, vec![Word::GpuLost, Word::XidUnclassified]));
}

#[test]
fn a_clock_that_was_set_back_does_not_hide_an_xid() {
    assert_eq!(of_gpu(&with_xid(79, -3_600), now()).state, State::Degraded);
}

#[test]
fn a_host_without_a_gpu_is_healthy_and_one_that_cannot_see_its_own_is_unknown() {
    assert_eq!(host(&gpus(vec![]), Some(false), &[]), (State::Healthy, vec![]));
    for word in [Missing::NoDriver, Missing::VersionMismatch, Missing::NotAnswering, Missing::NotReadYet] {
        let why = WhyNone { word, what: "what".into(), hint: "hint".into() };
        let unseen = Gpus::none(why, now());
        assert_eq!(host(&unseen, Some(false), &[]), (State::Unknown, vec![Word::GpusUnreadable]));
    }
    let stale = Gpus { stale: true, ..gpus(vec![gpu()]) };
    assert_eq!(host(&stale, Some(false), &[]), (State::Unknown, vec![Word::GpusStale]));
}

#[test]
fn the_disk_counts_as_well() {
    let drive = Drive { name: "nvme0n1", percentage_used: 99, critical_warning: 0 };
    assert_eq!(host(&gpus(vec![]), Some(true), &[drive]), (State::Degraded, vec![Word::CacheReadOnly]));
    assert_eq!(host(&gpus(vec![]), None, &[drive]), (State::Healthy, vec![]));
    let bad = Drive { percentage_used: 100, critical_warning: 0b1001, ..drive };
    let health = of_host(&Signs { gpus: &gpus(vec![]), now: now(), cache: ("/c", None), drives: &[bad] });
    assert_eq!(words(&health), (State::Degraded, vec![Word::DriveWarning, Word::DriveWorn]));
    assert!(health.words().contains("it warns: spare low, read-only"), "{}", health.words());
}

#[test]
fn many_reasons_are_bounded_and_what_is_wrong_goes_first() {
    let mut devices = vec![with_xid(171, 5); 100];
    devices.push(Gpu { lost: true, ..gpu() });
    let health = of_host(&Signs { gpus: &gpus(devices), now: now(), cache: ("/c", None), drives: &[] });
    assert_eq!((health.reasons.len(), health.reasons[0].word), (MAX_REASONS, Word::GpuLost));
}

#[test]
fn words_are_what_serde_writes() {
    for word in Word::ALL {
        assert_eq!(serde_json::to_value(word).expect("json"), word.word());
    }
}
