//! Reading that stays out of everybody's way: the thread's requests to the disk wait until nobody else has any, and what
//! was read does not push the pages of others out of memory.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Advice, fadvise};

/// `ioprio_set(2)`: the calling thread.
const WHO_PROCESS: libc::c_int = 1;
/// `linux/ioprio.h`: the class in the upper three bits; idle, and none in particular.
const IDLE: libc::c_int = 3 << 13;
const NONE: libc::c_int = 0;

/// While it lives, this thread reads and writes only when the disk has nothing else to do, if the disk's scheduler knows
/// of such classes.
#[derive(Debug)]
pub struct Quiet {
    /// The class belongs to the thread.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Quiet {
    /// Makes the calling thread quiet.
    pub fn begin() -> Self {
        set_class(IDLE);
        Self { _not_send: std::marker::PhantomData }
    }

    /// Opens a file that is read once from the beginning to the end.
    ///
    /// # Errors
    /// What opening said.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        let file = File::open(path)?;
        for advice in [Advice::Sequential, Advice::NoReuse] {
            // Advice only.
            let _ = fadvise(&file, 0, None, advice);
        }
        Ok(file)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        set_class(NONE);
    }
}

/// A refusal costs others some of the disk, and nothing else.
#[allow(unsafe_code)]
fn set_class(class: libc::c_int) {
    // SAFETY: the call takes three numbers and touches no memory of this process.
    let _ = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, class) };
}
