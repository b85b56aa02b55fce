//! Four GPUs through an hour of work, a second at a time: models are loaded, serve, and go; one card is hot, one falls off
//! the bus now and then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fake_nvml::Fake;
use fake_nvml::config::{Config, Ecc, Gpu, Memory, Process, Xid};

use super::engines::Held;

/// How many.
pub(super) const NUMBER: u64 = 4;
const GIB: u64 = 1 << 30;
/// How often they change.
const TICK: Duration = Duration::from_secs(1);
/// No process has such a number (`pid_max` of Linux ends at 2^22), so none is taken for the engine that is shown.
const NOBODY: u64 = 5_000_000;
/// Seconds of one engine's life on a card: loading, serving, and the pause before the next.
const LIFE: u64 = 90;
/// The last card is lost after so many seconds, for so long, and again each so many seconds later.
const LOST_AFTER: u64 = 60;
const LOST_FOR: u64 = 20;
const LOST_EVERY: u64 = 240;
/// The error that the driver tells of then.
pub(super) const XID: u64 = 79;
/// Xids that are remembered; the library delivers each of them once.
const MAX_XIDS: u64 = 64;
/// NVML's bit for a clock that is lowered because of heat.
const THERMAL: u64 = 0x20;
const IDLE: u64 = 1;

/// A process that holds memory of the first card, beside what is made up.
#[derive(Clone, Copy)]
pub(super) struct Engine {
    pub(super) pid: u32,
    pub(super) bytes: u64,
}

/// The cards that many seconds after the start.
pub(super) fn at(seconds: u64, engine: Option<Engine>) -> Config {
    let mut config = Config { gpus: (0..NUMBER).map(|n| card(n, seconds)).collect(), ..Config::default() };
    if let Some(Engine { pid, bytes }) = engine {
        let first = &mut config.gpus[0];
        first.compute_processes.push(Process {
            pid,
            used: Some(bytes),
            name: Some("/usr/bin/python3".into()),
        });
        if let Some(memory) = &mut first.memory {
            memory.used += bytes;
        }
    }
    let falls = fallen(seconds).map_or(0, |last| last / LOST_EVERY + 1).min(MAX_XIDS);
    config.xids = (0..falls).map(|_| Xid { gpu: NUMBER as usize - 1, code: XID }).collect();
    config
}

/// When the last card fell off the bus last.
pub(super) fn fallen(seconds: u64) -> Option<u64> {
    let since = seconds.checked_sub(LOST_AFTER)?;
    Some(LOST_AFTER + since / LOST_EVERY * LOST_EVERY)
}

fn card(n: u64, seconds: u64) -> Gpu {
    let phase = (seconds + n * LIFE / NUMBER) % LIFE;
    let engine = (seconds + n * LIFE / NUMBER) / LIFE;
    let full = GIB * (24 + 13 * ((engine + n) % 4));
    let (used, busy) = match phase {
        // Reading weights fills the memory and asks little of the processors.
        0..15 => (full * (phase + 1) / 16, 4),
        15..75 => (full + GIB * (phase % 7) / 2, 60 + ((seconds * 7 + n * 13) % 38) as u32),
        _ => (0, 0),
    };
    let temperature = 34 + busy / 2 + if n == 2 && busy > 80 { 12 } else { 0 };
    let engine = Process {
        pid: (NOBODY + n * 1000 + engine % 1000) as u32,
        used: Some(used),
        name: Some("/usr/bin/python3".into()),
    };
    Gpu {
        uuid: format!("GPU-5d0c0de{n}-1000-4000-8000-00000000000{n}"),
        memory: Some(Memory { used: used + GIB / 2, ..Memory::default() }),
        utilization: Some((busy, busy * 2 / 3)),
        temperature_c: Some(temperature),
        power_mw: Some(70_000 + busy * 6_000),
        throttle_reasons: Some(match busy {
            0 => IDLE,
            _ if temperature > 90 => THERMAL,
            _ => 0,
        }),
        ecc: Some(Ecc {
            corrected_volatile: seconds / 600,
            corrected_aggregate: 40 + seconds / 600,
            ..Ecc::default()
        }),
        compute_processes: if used > 0 { vec![engine] } else { Vec::new() },
        lost: n == NUMBER - 1 && fallen(seconds).is_some_and(|last| seconds < last + LOST_FOR),
        ..Gpu::default()
    }
}

/// Moves the cards every second.
pub(super) fn move_until(gpus: &Fake, held: &Held, stop: &AtomicBool) {
    let begun = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let engine = held.lock().ok().and_then(|held| *held);
        if let Err(error) = gpus.set(&at(begun.elapsed().as_secs(), engine)) {
            eprintln!("the GPUs stand still: {error}");
            return;
        }
        std::thread::sleep(TICK);
    }
}
