//! Xids, as the driver reports them. Waiting blocks, and nothing but an error of the library ends it before its time.

use std::collections::BTreeMap;
use std::time::Duration;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};

use super::trouble::words;

/// How long one wait lasts at most, in milliseconds; after it the caller is asked whether to go on.
const WAIT: u32 = 500;
/// A wait that fails at once is not repeated at once.
const CALM: Duration = Duration::from_secs(1);
/// What the library calls an Xid that it does not know.
const UNKNOWN: u64 = 999;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Heard {
    /// Xids of these GPUs, by UUID, would be heard from now on.
    Listening(Vec<String>),
    /// An Xid of a GPU.
    Xid {
        /// The GPU.
        uuid: String,
        /// The number.
        code: u64,
    },
}

/// Why listening ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Ended {
    /// The caller asked for it.
    Asked,
    /// No GPU here reports Xids.
    Nobody,
    /// The library failed.
    Failed(String),
}

/// Hears Xids for as long as `go_on` says. Blocks.
pub(in super::super) fn listen(
    library: Option<&str>,
    go_on: &dyn Fn() -> bool,
    hear: &mut dyn FnMut(Heard),
) -> Ended {
    let failed = |error: NvmlError| Ended::Failed(words(&error));
    let nvml = match super::load(library) {
        Ok(nvml) => nvml,
        Err(error) => return failed(error),
    };
    let (set, uuids) = match register(&nvml) {
        Ok(Some(registered)) => registered,
        Ok(None) => return Ended::Nobody,
        Err(error) => return failed(error),
    };
    hear(Heard::Listening(uuids.values().cloned().collect()));
    while go_on() {
        match set.wait(WAIT) {
            Ok(event) => {
                let code = match event.event_data {
                    Some(XidError::Value(code)) => code,
                    Some(XidError::Unknown) => UNKNOWN,
                    None => continue,
                };
                if let Some(uuid) = uuids.get(&address(&event.device)) {
                    hear(Heard::Xid { uuid: uuid.clone(), code });
                }
            }
            Err(NvmlError::Timeout) => {}
            // The others can still be heard.
            Err(NvmlError::GpuLost) => std::thread::sleep(CALM),
            Err(error) => return failed(error),
        }
    }
    Ended::Asked
}

/// UUIDs by handle: a lost GPU no longer tells its own.
type Uuids = BTreeMap<usize, String>;

/// A set with every GPU that reports Xids, if there is one.
fn register(nvml: &Nvml) -> Result<Option<(EventSet<'_>, Uuids)>, NvmlError> {
    let count = nvml.device_count()?.min(super::MAX_DEVICES);
    let mut devices: Vec<(Device<'_>, String)> = (0..count)
        .filter_map(|index| {
            let device = nvml.device_by_index(index).ok()?;
            let types = device.supported_event_types().ok()?;
            let uuid = device.uuid().ok()?;
            types.contains(EventTypes::CRITICAL_XID_ERROR).then_some((device, uuid))
        })
        .collect();
    // A GPU that refuses takes the whole set with it, so the rest begins anew without it.
    'anew: while !devices.is_empty() {
        let mut set = nvml.create_event_set()?;
        for n in 0..devices.len() {
            match devices[n].0.register_events(EventTypes::CRITICAL_XID_ERROR, set) {
                Ok(same) => set = same,
                Err(_) => {
                    devices.remove(n);
                    continue 'anew;
                }
            }
        }
        let uuids = devices.iter().map(|(device, uuid)| (address(device), uuid.clone())).collect();
        return Ok(Some((set, uuids)));
    }
    Ok(None)
}

/// The handle as a number, to recognise it; nothing is done with what it points to.
#[allow(unsafe_code)]
fn address(device: &Device<'_>) -> usize {
    // SAFETY: the call only copies the pointer, which is compared and never followed.
    unsafe { device.handle() }.addr()
}
