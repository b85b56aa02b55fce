//! `larder xet-fetch`: the child process that fetches one file over Xet. larder starts it, nobody types it.

use super::OK;
use crate::error::Result;
use crate::hub;

pub(super) fn run() -> Result<u8> {
    hub::fetch_as_ordered().map(|()| OK)
}
