//! One binary for everything that is tested from outside: the command line, HTTP, files, other clients.

mod api;
mod architecture;
mod bad_input;
mod chaos;
mod cli;
mod docs;
mod evict;
mod faults;
mod fit;
mod fleet;
mod gpu;
mod interop;
mod limits;
mod metrics;
mod queue_input;
mod redis;
mod repos;
mod resume;
mod stage;
mod store;
mod warm;
mod xet;
