//! `larder serve`: until SIGTERM or Ctrl-C; SIGHUP reads the configuration again.

use super::OK;
use crate::config::{Settings, Sources};
use crate::error::Result;
use crate::serve;

pub(super) async fn run(settings: Settings, sources: Sources) -> Result<u8> {
    serve::serve(settings, sources).await?;
    Ok(OK)
}
