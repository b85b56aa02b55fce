//! One binary for everything that is tested from outside: the command line, HTTP, files, other clients.

mod access;
mod api;
mod architecture;
mod bad_input;
mod chaos;
mod cli;
mod demo;
mod deploy;
mod docs;
mod doctor;
mod events;
mod evict;
mod faults;
mod fit;
mod fleet;
mod gpu;
mod interop;
mod languages;
mod limits;
mod metrics;
mod monitoring;
mod openapi;
mod queue_input;
mod redis;
mod repos;
mod resume;
mod secrets;
mod stage;
mod store;
#[cfg(feature = "otlp")]
mod tokens;
mod traces;
mod warm;
mod web;
mod webhooks;
mod xet;
