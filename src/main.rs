//! The binary: a thin shell over the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    have_one_heap();
    larder::cli::main()
}

/// By default glibc's allocator has up to eight heaps a core, and each keeps what was freed in it. What a worker
/// holds at most should depend on what it does and not on the threads that do it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn have_one_heap() {
    // SAFETY: mallopt(3) stores a number; no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other C libraries' allocators have no such number.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn have_one_heap() {}
