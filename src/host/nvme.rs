//! How worn an NVMe drive is, as the drive itself says.
//!
//! `/sys` has a drive's model and state and nothing of its wear, and its hwmon has the temperature alone. The drive's
//! SMART / health log (log page 02h of the NVMe base specification) has it; the kernel passes that command on for root
//! only (CAP_SYS_ADMIN). Without root, or without the device node in a container, the wear is unknown.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `linux/nvme_ioctl.h`: `_IOWR('N', 0x41, struct nvme_admin_cmd)`.
const ADMIN_COMMAND: u32 = 0xC048_4E41;
/// The admin command Get Log Page.
const GET_LOG_PAGE: u8 = 0x02;
/// The log page SMART / health information, for the drive as a whole.
const HEALTH: u32 = 0x02;
const WHOLE_DRIVE: u32 = u32::MAX;
/// Length of that page in bytes.
const PAGE: usize = 512;

/// What a drive says of its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Wear {
    /// Of the endurance that the maker promises, in per cent; 255 stands for 255 and more.
    pub percentage_used: u8,
    /// Spare blocks left, in per cent.
    pub available_spare: u8,
    /// Below that many per cent of spare blocks the drive warns.
    pub spare_threshold: u8,
    /// Bits of the specification: 0 spare low, 1 temperature, 2 reliability degraded, 3 read-only, 4 volatile backup
    /// failed, 5 persistent memory unreliable. Zero is good.
    pub critical_warning: u8,
    /// Errors of data that could not be recovered.
    pub media_errors: u64,
}

/// `struct nvme_admin_cmd` of `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Default)]
struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    command_2: u32,
    command_3: u32,
    metadata: u64,
    address: u64,
    metadata_length: u32,
    data_length: u32,
    command_10: u32,
    command_11_to_15: [u32; 5],
    timeout_milliseconds: u32,
    result: u32,
}

const _: () = assert!(size_of::<Command>() == 72);

/// Asks the drive behind a device node. Blocks while the drive answers, which takes some milliseconds.
pub(super) fn wear(node: &Path) -> Option<Wear> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let device = File::options().read(true).custom_flags(flags).open(node).ok()?;
    let block = device.metadata().ok()?.file_type().is_block_device();
    block.then(|| health(&device)).flatten().map(|page| parsed(&page))
}

#[allow(unsafe_code)]
fn health(device: &File) -> Option<[u8; PAGE]> {
    let mut page = [0_u8; PAGE];
    let double_words = u32::try_from(PAGE / 4 - 1).ok()?;
    let mut command = Command {
        opcode: GET_LOG_PAGE,
        namespace: WHOLE_DRIVE,
        address: page.as_mut_ptr().expose_provenance() as u64,
        data_length: u32::try_from(PAGE).ok()?,
        command_10: double_words << 16 | HEALTH,
        // No time-out of ours: the kernel resets the controller when one passes.
        ..Command::default()
    };
    // SAFETY: `command` has the layout and the size that the number of the call says. The kernel writes to it and, at
    // most `data_length` bytes, to `page`; both live and are not otherwise touched until the call returns.
    let status = unsafe { libc::ioctl(device.as_raw_fd(), ADMIN_COMMAND as _, &raw mut command) };
    // Below zero the kernel refused, above it the drive did.
    (status == 0).then_some(page)
}

/// Byte offsets of the specification; media errors are 16 bytes, of which no drive fills the upper eight.
fn parsed(page: &[u8; PAGE]) -> Wear {
    let mut errors = [0; 8];
    errors.copy_from_slice(&page[160..168]);
    Wear {
        critical_warning: page[0],
        available_spare: page[3],
        spare_threshold: page[4],
        percentage_used: page[5],
        media_errors: u64::from_le_bytes(errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_read_at_the_offsets_of_the_specification() {
        let mut page = [0xEE; PAGE];
        (page[0], page[3], page[4], page[5]) = (0b100, 98, 10, 7);
        page[160..168].copy_from_slice(&[2, 1, 0, 0, 0, 0, 0, 0]);
        let expected = Wear {
            percentage_used: 7,
            available_spare: 98,
            spare_threshold: 10,
            critical_warning: 0b100,
            media_errors: 258,
        };
        assert_eq!(parsed(&page), expected);
    }

    #[test]
    fn what_is_no_drive_has_no_wear() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        assert_eq!(health(file.as_file()), None, "the kernel refuses");
        for path in [file.path(), Path::new("/dev/null"), Path::new("/dev/nvme-none")] {
            assert_eq!(wear(path), None, "{}", path.display());
        }
    }
}
