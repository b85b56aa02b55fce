//! Real measurements of small files.

use std::cell::{Cell, RefCell};

use super::*;

fn ask(folder: &Path) -> Ask<'_> {
    Ask { folder, bytes: LEAST + 5000, keep_free: 0, readers: 4, quiet: false }
}

#[test]
fn every_step_moves_all_bytes_and_nothing_is_left() {
    let folder = tempfile::tempdir().expect("temp dir");
    let steps = RefCell::new(Vec::new());
    let progress = |step, done, of| {
        assert!(done <= of, "{done} of {of}");
        steps.borrow_mut().push(step);
    };
    let speeds = measure(&ask(folder.path()), &|| false, &progress).expect("measures");
    let whole = LEAST + 4096;
    assert_eq!(speeds.write.bytes, whole, "whole pages");
    for measured in [speeds.cold, speeds.cold_parallel, speeds.warm] {
        assert!(measured.rate.is_some() != measured.missing.is_some(), "{measured:?}");
        assert!(measured.rate.is_none_or(|rate| rate.bytes == whole && rate.bytes_per_second > 0.0));
    }
    assert!(speeds.warm.rate.is_some(), "that much fits into any memory");
    let mut steps = steps.into_inner();
    steps.dedup();
    assert!(steps.starts_with(&[Step::Write]) && steps.ends_with(&[Step::Warm]), "{steps:?}");
    assert_eq!(folder.path().read_dir().expect("reads").count(), 0);
}

#[test]
fn a_filesystem_in_memory_has_no_cold_speed() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let roots = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    if !roots.contains(" /dev/shm ") {
        return;
    }
    let speeds = measure(&ask(folder.path()), &|| false, &|_, _, _| {}).expect("measures");
    assert_eq!((speeds.cold.rate, speeds.cold.missing), (None, Some(Missing::NotDropped)));
    assert_eq!(speeds.read_speeds().cold, None);
    assert!(speeds.read_speeds().warm.is_some());
}

#[test]
fn it_stops_in_every_step() {
    let folder = tempfile::tempdir().expect("temp dir");
    for step in [Step::Write, Step::Warm] {
        let seen = Cell::new(None);
        let stop = || seen.get() == Some(step);
        let error =
            measure(&ask(folder.path()), &stop, &|step, _, _| seen.set(Some(step))).expect_err("stops");
        assert_eq!(error.reason(), Reason::Interrupted);
    }
}

#[test]
fn what_must_stay_free_stays_free() {
    let folder = tempfile::tempdir().expect("temp dir");
    let full = Ask { keep_free: u64::MAX, ..ask(folder.path()) };
    let error = measure(&full, &|| false, &|_, _, _| {}).expect_err("no room");
    assert_eq!(error.reason(), Reason::InsufficientDisk);
    let free = usage(folder.path()).expect("answers").free;
    let tight = Ask { keep_free: free - 64 * LEAST.min(free / 128), bytes: u64::MAX, ..ask(folder.path()) };
    assert!(room(&tight).expect("some") <= 65 * LEAST, "smaller than asked for");
}

#[test]
fn where_files_must_have_names_the_name_is_gone_at_once() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().expect("temp dir");
    let left = folder.path().join(format!(".larder-speed-{}", std::process::id()));
    std::fs::write(left, "").expect("one that was left behind");
    for file in [unnamed(folder.path()).expect("opens"), nameless(folder.path()).expect("opens")] {
        file.write_all_at(b"x", 7).expect("writes");
        assert_eq!(file.metadata().expect("answers").nlink(), 0);
    }
    assert_eq!(folder.path().read_dir().expect("reads").count(), 0);
    assert!(nameless(Path::new("/proc/self")).is_err(), "a folder that takes no files");
}

#[test]
fn the_data_do_not_repeat() {
    let data = random();
    let pages: std::collections::HashSet<&[u8]> = data.chunks(STAMP).collect();
    assert_eq!(pages.len(), RANDOM / STAMP);
    let ones: u32 = data.iter().map(|byte| byte.count_ones()).sum();
    let bits = u32::try_from(RANDOM * 8).expect("small");
    assert!(ones.abs_diff(bits / 2) < bits / 1000, "as many ones as zeros");
}
