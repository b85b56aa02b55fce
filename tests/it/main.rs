//! One binary for everything that is tested from outside: the command line, HTTP, files, other clients.

mod architecture;
mod faults;
mod interop;
mod resume;
mod stage;
mod store;
