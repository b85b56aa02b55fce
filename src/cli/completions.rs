//! `larder completions`: a script for the shell, made from the same definitions as `--help`.

use clap::CommandFactory as _;

use super::args::Args;
use super::output::Output;
use crate::error::Result;

pub(super) fn run(shell: clap_complete::Shell, output: &Output) -> Result<u8> {
    // Into memory first: clap_complete panics when a pipe is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "larder", &mut script);
    output.line(String::from_utf8_lossy(&script).trim_end());
    Ok(super::OK)
}
