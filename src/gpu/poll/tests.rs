//! The threads against readers that fail, come back and stand still.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Instant;

use larder_jobs::Span;

use super::super::config::Unhealthy;
use super::super::snapshot::{DeviceKind, Gpu, Missing, Source, WhyNone};
use super::*;

const INTERVAL: Duration = Duration::from_millis(100);

fn config() -> Config {
    Config {
        nvml_library: String::new(),
        interval: Span(INTERVAL),
        give_up_after: Span(3 * INTERVAL),
        unhealthy: Unhealthy::Warn,
    }
}

fn why() -> WhyNone {
    WhyNone { word: Missing::NoDriver, what: "no driver".into(), hint: "load it".into() }
}

fn one(now: Timestamp) -> Gpus {
    let devices = vec![Gpu { uuid: Some("GPU-1".into()), ..Gpu::unknown(0, DeviceKind::Cuda) }];
    Gpus { source: Source::Nvml, why_none: None, devices, ..Gpus::none(why(), now) }
}

/// A reader that does what the function says at the nth reading.
struct Scripted<F>(F, u32);

impl<F: FnMut(u32) -> Result<(), WhyNone> + Send> Reader for Scripted<F> {
    fn read(&mut self, now: Timestamp) -> Result<Gpus, WhyNone> {
        self.1 += 1;
        (self.0)(self.1).map(|()| one(now))
    }
}

fn scripted(
    readings: impl FnMut(u32) -> Result<(), WhyNone> + Send + 'static,
) -> Result<Box<dyn Reader>, WhyNone> {
    Ok(Box::new(Scripted(readings, 0)))
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_driver_that_is_loaded_later_is_found() {
    let opened = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&opened);
    let handle = start_with(&config(), move |_: &[Gpu]| match count.fetch_add(1, SeqCst) {
        0 | 1 => Err(why()),
        _ => scripted(|_| Ok(())),
    });
    assert_eq!(handle.latest().source, Source::None);
    until("found", || handle.latest().source == Source::Nvml);
    assert_eq!(opened.load(SeqCst), 3);
    assert_eq!(handle.lost_for_good(), None, "it had never worked before");
}

#[test]
fn a_reading_that_does_not_return_makes_the_last_one_stale_and_holds_up_nobody() {
    let handle = start_with(&config(), |_: &[Gpu]| {
        let hangs = |nth: u32| {
            if nth == 2 {
                loop {
                    thread::park();
                }
            }
            Ok(())
        };
        scripted(hangs)
    });
    until("read once", || handle.latest().source == Source::Nvml);
    assert!(!handle.latest().stale);
    until("stale", || handle.latest().stale);
    let begun = Instant::now();
    assert_eq!(handle.latest().devices.len(), 1, "what was read stays");
    drop(handle);
    assert!(begun.elapsed() < INTERVAL, "nobody waits for the thread");
}

#[test]
fn nothing_read_at_all_turns_stale_as_well() {
    let handle = start_with(&config(), |_: &[Gpu]| {
        loop {
            thread::park();
        }
    });
    assert!(!handle.latest().stale);
    until("stale", || handle.latest().stale);
    let word = handle.latest().why_none.as_ref().map(|why| why.word);
    assert_eq!(word, Some(Missing::NotReadYet));
}

#[tokio::test]
async fn total_failure_after_success_is_said_in_the_end_and_taken_back() {
    let opened = Arc::new(AtomicU32::new(0));
    let handle = start_with(&config(), move |_: &[Gpu]| match opened.fetch_add(1, SeqCst) {
        0 => scripted(|nth| if nth > 1 { Err(why()) } else { Ok(()) }),
        1..=3 => Err(why()),
        _ => scripted(|_| Ok(())),
    });
    let error = handle.until_lost_for_good().await;
    assert!(error.to_string().starts_with("the GPUs could be read and cannot since"), "{error}");
    assert_eq!(error.hint(), "load it");
    assert_eq!(handle.latest().source, Source::None, "what was true is not shown as true now");
    until("back", || handle.lost_for_good().is_none() && handle.latest().source == Source::Nvml);
}

#[test]
fn pauses_grow_to_a_minute_and_no_further() {
    let mut poller = Poller::new(INTERVAL, Duration::ZERO, |_: &[Gpu]| Err(why()));
    let now = Timestamp::UNIX_EPOCH;
    let pauses: Vec<_> = (0..20).map(|_| poller.step(now, &|_| ()).pause).collect();
    assert_eq!(pauses[..4], [1, 2, 4, 8].map(|factor| factor * INTERVAL));
    assert_eq!(pauses[19], Duration::from_secs(60));
    let slow = Duration::from_secs(300);
    let mut poller = Poller::new(slow, Duration::ZERO, |_: &[Gpu]| Err(why()));
    assert_eq!((0..5).map(|_| poller.step(now, &|_| ()).pause).max(), Some(slow));
}

#[test]
fn sessions_are_told_open_and_closed_in_turn() {
    let told = std::cell::RefCell::new(Vec::new());
    let mut poller = Poller::new(INTERVAL, Duration::ZERO, |_: &[Gpu]| {
        scripted(|nth| if nth == 2 { Err(why()) } else { Ok(()) })
    });
    for _ in 0..4 {
        poller.step(Timestamp::UNIX_EPOCH, &|open| told.borrow_mut().push(open));
    }
    assert_eq!(*told.borrow(), [true, false, true, false]);
}
