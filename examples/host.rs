//! A GPU host that needs no GPU, no hub and no Redis, busy until Ctrl-C: something to look at with the page at `/`, with
//! `/metrics`, dashboards, or any client of the API. Leaves nothing behind.
//!
//! `cargo run --release --example host [-- --listen 127.0.0.1:7717]`

use std::process::ExitCode;

#[path = "host/mod.rs"]
mod host;

fn main() -> ExitCode {
    host::run(std::env::args().skip(1))
}
