//! A night in fake time: 50 hosts, 300 models, one line of 1 Gbit/s for all, rates that wobble, a host that dies and a
//! source that is away for half an hour. It is planned once, at its beginning, and then the hosts run their jobs. Nothing is
//! downloaded; `cargo run --release --example night -- docs/night.svg` takes seconds and writes the picture.
//!
//! The same night is lived through twice: as it is planned, and with the host that dies and the source that is away, which
//! no plan can know of. It ends with an error if a byte came outside the window beyond the allowed rate, more came than the
//! line gives, or too little of what could be there by the deadline was.

mod dice;
mod plot;
mod world;

use std::process::ExitCode;

use world::{Night, World};

/// The night of the picture in the documents.
const SEED: u64 = 20_261_024;
/// What share of the models that could be there by the deadline has to be. Where half an hour of a full line is lost, each
/// host has one or two models that are not done: the plan is not made again.
const TARGET: f64 = 0.95;
const TARGET_OF_UNLUCKY: f64 = 0.90;
/// Bytes that sums of many fractions may be off.
const ROUNDING: f64 = 1.0;

/// Lives through a night; the arguments are where its picture goes, and which night.
pub(crate) fn run(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let (picture, seed) = (arguments.next(), arguments.next());
    let Ok(seed) = seed.map_or(Ok(SEED), |seed| seed.parse()) else {
        eprintln!("the second argument is the number of a night");
        return ExitCode::FAILURE;
    };
    let (quiet, unlucky) = (World::new(seed, false).live(), World::new(seed, true).live());
    println!("as planned: {}\nwith a host that dies and an outage: {}", summary(&quiet), summary(&unlucky));
    if let Some(path) = picture
        && let Err(error) = std::fs::write(&path, plot::render(&unlucky))
    {
        eprintln!("{path} cannot be written: {error}");
        return ExitCode::FAILURE;
    }
    let holds = |night: &Night, target: f64| {
        let share = night.hits as f64 / night.bound as f64;
        night.outside_excess < ROUNDING && night.line_excess < ROUNDING && share >= target
    };
    let holds = holds(&quiet, TARGET) && holds(&unlucky, TARGET_OF_UNLUCKY);
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summary(night: &Night) -> String {
    let per_class: Vec<_> = night
        .classes
        .iter()
        .map(|class| format!("  priority {:>2}: {:>3} of {:>3}", class.priority, class.hits, class.wanted))
        .collect();
    format!(
        "{} models on {} hosts, {:.0} GB to fetch; {:.0} GB came, of those {:.1} GB outside the window\n\
         there by the deadline: {} of {} that water could have brought ({:.1} %), {} were there before\n{}\n\
         promised by the plan to hosts that live: {}, of those late: {}\n\
         beyond the allowed rate outside the window: {:.0} bytes; beyond the line: {:.0} bytes",
        night.models,
        night.hosts.len(),
        night.wanted_bytes / 1e9,
        night.bytes / 1e9,
        night.outside_bytes / 1e9,
        night.hits,
        night.bound,
        100.0 * night.hits as f64 / night.bound as f64,
        night.present,
        per_class.join("\n"),
        night.promised,
        night.late,
        night.outside_excess,
        night.line_excess,
    )
}
