//! A night in fake time: 50 hosts, 300 models, one line of 1 Gbit/s for all, rates that wobble, a host that dies and a
//! source that is away for half an hour. The planner plans again every five minutes with what it measured. Nothing is
//! downloaded; `cargo run --release --example night -- docs/night.svg` takes seconds and writes the picture.
//!
//! It ends with an error if a byte came outside the window beyond the allowed rate, more came than the line gives, or
//! less than 95 of 100 of what could be there by the deadline was.

mod plot;
mod world;

use std::process::ExitCode;

use world::{Night, World};

/// The night of the picture in the documents.
const SEED: u64 = 20_261_024;
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
    let night = World::new(seed).live();
    println!("{}", summary(&night));
    if let Some(path) = picture
        && let Err(error) = std::fs::write(&path, plot::render(&night))
    {
        eprintln!("{path} cannot be written: {error}");
        return ExitCode::FAILURE;
    }
    let share = night.hits as f64 / night.bound as f64;
    let holds = night.outside_excess < ROUNDING && night.line_excess < ROUNDING && share >= 0.95;
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
         plans: {}, the slowest took {:.0} ms\n\
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
        night.plans,
        night.slowest_plan * 1e3,
        night.outside_excess,
        night.line_excess,
    )
}
