//! `larder serve`: until SIGTERM or Ctrl-C.

use super::OK;
use crate::config::Settings;
use crate::error::Result;
use crate::serve;

pub(super) async fn run(settings: Settings) -> Result<u8> {
    serve::serve(settings).await?;
    Ok(OK)
}
