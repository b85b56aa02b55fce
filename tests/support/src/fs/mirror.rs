//! What is behind [`super::Faulty`]: every file is one of a real folder, held by a descriptor that outlives renames.
//!
//! Nothing is cached by the kernel, so that every read and write is seen here.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::fs::{UTIME_NOW, UTIME_OMIT};

use super::faulty::{Operation, Shared, wait_while_hung, works_on};

/// Nothing is remembered about names and files.
const NOT_AT_ALL: Duration = Duration::ZERO;

/// Descriptors by number.
#[derive(Debug, Default)]
struct Table {
    /// One without access for each file that the kernel ever asked about.
    nodes: HashMap<u64, File>,
    open: HashMap<u64, File>,
    next: u64,
}

/// The folder, as the kernel is shown it.
#[derive(Debug)]
pub(super) struct Mirror {
    table: Mutex<Table>,
    health: Shared,
}

impl Mirror {
    pub(super) fn of(folder: &Path, health: Shared) -> io::Result<Self> {
        let mut table = Table::default();
        table.nodes.insert(INodeNo::ROOT.0, File::open(folder)?);
        Ok(Self { table: Mutex::new(table), health })
    }

    /// Every question goes through here, so whoever asks while nothing is answered stands still.
    fn table(&self) -> MutexGuard<'_, Table> {
        wait_while_hung(&self.health);
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A path to the file, good for as long as this filesystem lives, whatever its name is by then.
    fn at(&self, ino: INodeNo) -> io::Result<PathBuf> {
        let table = self.table();
        let node = table.nodes.get(&ino.0).ok_or(rustix::io::Errno::NOENT)?;
        Ok(format!("/proc/self/fd/{}", node.as_raw_fd()).into())
    }

    fn below(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.at(parent)?.join(name))
    }

    fn attr(&self, ino: INodeNo) -> io::Result<FileAttr> {
        let table = self.table();
        let node = table.nodes.get(&ino.0).ok_or(rustix::io::Errno::NOENT)?;
        Ok(attr(ino, &node.metadata()?))
    }

    /// Makes the file known to the kernel.
    fn enter(&self, path: &Path) -> io::Result<FileAttr> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let found = node.metadata()?;
        self.table().nodes.entry(found.ino()).or_insert(node);
        Ok(attr(INodeNo(found.ino()), &found))
    }

    fn keep(&self, file: File) -> FileHandle {
        let mut table = self.table();
        table.next += 1;
        let handle = table.next;
        table.open.insert(handle, file);
        FileHandle(handle)
    }

    fn with<T>(&self, handle: FileHandle, act: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let file = self.table().open.get(&handle.0).ok_or(rustix::io::Errno::NOENT)?.try_clone()?;
        act(&file)
    }

    /// # Errors
    /// EIO when the file is bad there.
    fn check(&self, operation: Operation, ino: INodeNo, end: u64) -> io::Result<()> {
        let path = fs::read_link(self.at(ino)?)?;
        if works_on(&self.health, operation, &path, end) { Ok(()) } else { Err(rustix::io::Errno::IO.into()) }
    }
}

fn attr(ino: INodeNo, found: &Metadata) -> FileAttr {
    let time = |seconds: i64, nanos: i64| {
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        UNIX_EPOCH + seconds + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    };
    FileAttr {
        ino,
        size: found.len(),
        blocks: found.blocks(),
        atime: time(found.atime(), found.atime_nsec()),
        mtime: time(found.mtime(), found.mtime_nsec()),
        ctime: time(found.ctime(), found.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: FileType::from_std(found.file_type()).unwrap_or(FileType::RegularFile),
        perm: (found.mode() & 0o7777) as u16,
        nlink: u32::try_from(found.nlink()).unwrap_or(u32::MAX),
        uid: found.uid(),
        gid: found.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, UTIME_OMIT),
        Some(TimeOrNow::Now) => (0, UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            (since.as_secs().cast_signed(), i64::from(since.subsec_nanos()))
        }
    };
    Timespec { tv_sec, tv_nsec }
}

/// Answers with what `$result` gave, or with its error.
macro_rules! answer {
    ($reply:ident, $result:expr, $value:pat => $good:expr) => {
        let result: io::Result<_> = $result;
        match result {
            Ok($value) => $good,
            Err(error) => $reply.error(Errno::from(error)),
        }
    };
}

fn done(result: io::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(Errno::from(error)),
    }
}

impl Filesystem for Mirror {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(reply, self.below(parent, name).and_then(|path| self.enter(&path)), attr => reply.entry(&NOT_AT_ALL, &attr, Generation(0)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.attr(ino), attr => reply.attr(&NOT_AT_ALL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = || {
            let path = self.at(ino)?;
            if let Some(mode) = mode {
                fs::set_permissions(&path, Permissions::from_mode(mode & 0o7777))?;
            }
            if uid.is_some() || gid.is_some() {
                std::os::unix::fs::chown(&path, uid, gid)?;
            }
            if let Some(size) = size {
                File::options().write(true).open(&path)?.set_len(size)?;
            }
            if atime.is_some() || mtime.is_some() {
                let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
                rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())?;
            }
            self.attr(ino)
        };
        answer!(reply, set(), attr => reply.attr(&NOT_AT_ALL, &attr));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let read = || {
            let table = self.table();
            let node = table.nodes.get(&ino.0).ok_or(rustix::io::Errno::NOENT)?;
            Ok(rustix::fs::readlinkat(node, "", Vec::new())?)
        };
        answer!(reply, read(), target => reply.data(target.to_bytes()));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let make = || {
            let path = self.below(parent, name)?;
            fs::create_dir(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(mode & !umask & 0o7777))?;
            self.enter(&path)
        };
        answer!(reply, make(), attr => reply.entry(&NOT_AT_ALL, &attr, Generation(0)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.below(parent, name).and_then(fs::remove_file), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.below(parent, name).and_then(fs::remove_dir), reply);
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let make = || {
            let path = self.below(parent, name)?;
            std::os::unix::fs::symlink(target, &path)?;
            self.enter(&path)
        };
        answer!(reply, make(), attr => reply.entry(&NOT_AT_ALL, &attr, Generation(0)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let rename = || {
            let (from, to) = (self.below(parent, name)?, self.below(new_parent, new_name)?);
            Ok(rustix::fs::renameat_with(CWD, &from, CWD, &to, flags)?)
        };
        done(rename(), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let make = || {
            let (from, to) = (self.at(ino)?, self.below(new_parent, new_name)?);
            rustix::fs::linkat(CWD, &from, CWD, &to, AtFlags::SYMLINK_FOLLOW)?;
            self.attr(ino)
        };
        answer!(reply, make(), attr => reply.entry(&NOT_AT_ALL, &attr, Generation(0)));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = || {
            let flags = OFlags::from_bits_retain(flags.0.cast_unsigned()) - OFlags::NOFOLLOW - OFlags::DIRECT;
            Ok(self.keep(rustix::fs::open(self.at(ino)?, flags | OFlags::CLOEXEC, Mode::empty())?.into()))
        };
        answer!(reply, open(), handle => reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let create = || {
            let path = self.below(parent, name)?;
            let flags = OFlags::from_bits_retain(flags.cast_unsigned()) - OFlags::DIRECT;
            let mode = Mode::from_raw_mode(mode & !umask & 0o7777);
            let file = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::CLOEXEC, mode)?;
            let attr = self.enter(&path)?;
            Ok((attr, self.keep(file.into())))
        };
        answer!(reply, create(), (attr, handle) => reply.created(
            &NOT_AT_ALL,
            &attr,
            Generation(0),
            handle,
            FopenFlags::FOPEN_DIRECT_IO,
        ));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = || {
            self.check(Operation::Read, ino, offset + u64::from(size))?;
            self.with(handle, |file| {
                let (mut buffer, mut n) = (vec![0; size as usize], 0);
                while n < buffer.len() {
                    match file.read_at(&mut buffer[n..], offset + n as u64)? {
                        0 => break,
                        more => n += more,
                    }
                }
                buffer.truncate(n);
                Ok(buffer)
            })
        };
        answer!(reply, read(), bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = || {
            self.check(Operation::Write, ino, offset + data.len() as u64)?;
            let appends = OFlags::from_bits_retain(flags.0.cast_unsigned()).contains(OFlags::APPEND);
            self.with(handle, |mut file| match appends {
                true => io::Write::write_all(&mut file, data),
                false => file.write_all_at(data, offset),
            })
        };
        answer!(reply, write(), () => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.table().open.remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let sync = || {
            self.check(Operation::Sync, ino, 0)?;
            self.with(handle, File::sync_data)
        };
        done(sync(), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.check(Operation::Sync, ino, 0), reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        done(self.with(handle, |file| Ok(rustix::fs::fallocate(file, mode, offset, length)?)), reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let list = || {
            let mut entries =
                vec![(ino, FileType::Directory, ".".into()), (ino, FileType::Directory, "..".into())];
            for entry in fs::read_dir(self.at(ino)?)? {
                let entry = entry?;
                let kind = FileType::from_std(entry.file_type()?).unwrap_or(FileType::RegularFile);
                entries.push((INodeNo(entry.metadata()?.ino()), kind, entry.file_name()));
            }
            Ok(entries)
        };
        answer!(reply, list(), mut entries => {
            // The same order at every call, also when something came or went.
            entries[2..].sort_by(|one, other| one.2.cmp(&other.2));
            let begin = usize::try_from(offset).unwrap_or(usize::MAX);
            for (n, (ino, kind, name)) in entries.into_iter().enumerate().skip(begin) {
                if reply.add(ino, n as u64 + 1, kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let stat = || Ok(rustix::fs::statvfs(self.at(ino)?)?);
        answer!(reply, stat(), found => reply.statfs(
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
            u32::try_from(found.f_bsize).unwrap_or(4096),
            255,
            u32::try_from(found.f_frsize).unwrap_or(4096),
        ));
    }
}
