//! Stands in for `libnvidia-ml.so`, so that everything above NVML is tested without a GPU: the real wrapper crate, and
//! NVIDIA's own Python binding, load this library and meet the GPUs that a JSON file describes.
//!
//! The file is the one named in the environment variable `FAKE_NVML`, else the one beside the library with the ending
//! `.json`. It is looked at before every call, so a test changes the GPUs by writing it again: memory that fills, a GPU
//! that is lost and comes back, an Xid, a call that takes its time or does not return at all.
//!
//! - [`config`]: what the file may say;
//! - [`device`] and [`state`]: what NVML answers to it, in safe code;
//! - [`abi`]: the C functions, the only unsafe code;
//! - [`place`]: for tests: puts the library and its file into a folder, without the functions that an old driver lacks.

pub mod abi;
pub mod config;
pub mod device;
pub mod place;
pub mod state;

pub use place::{Fake, OLD_DRIVER};
