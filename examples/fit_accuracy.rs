//! Compares the estimator with published measurements, beside three rules of thumb.
//!
//! `cargo run --release --example fit_accuracy -- FILE.csv` reads a table with the columns of
//! `tests/fixtures/fit/ground_truth.csv` (the default). The last line is for machines.

use std::process::ExitCode;

#[path = "fit_accuracy/mod.rs"]
mod fit_accuracy;

fn main() -> ExitCode {
    fit_accuracy::run(std::env::args_os().nth(1).map(Into::into))
}
