//! `larder completions`: a script for the shell, made from the same definitions as `--help`.

use clap::CommandFactory as _;

use super::args::Args;
use crate::error::Result;

pub(super) fn run(shell: clap_complete::Shell) -> Result<u8> {
    clap_complete::generate(shell, &mut Args::command(), "larder", &mut std::io::stdout());
    Ok(super::OK)
}
