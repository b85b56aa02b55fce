//! A night in fake time, and its picture: `cargo run --release --example night -- docs/night.svg`; a number behind it is another
//! night.

use std::process::ExitCode;

#[path = "night/mod.rs"]
mod night;

fn main() -> ExitCode {
    night::run(std::env::args().skip(1))
}
