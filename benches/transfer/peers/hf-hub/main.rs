//! `transfer-bench-hf-hub OWNER/NAME`: downloads a model with the hf-hub crate as it comes, into `HF_HUB_CACHE` from
//! `HF_ENDPOINT`.

use anyhow::{Context as _, Result};
use hf_hub::HFClient;

#[tokio::main]
async fn main() -> Result<()> {
    let model = std::env::args().nth(1).context("say OWNER/NAME")?;
    let (owner, name) = model.split_once('/').context("say OWNER/NAME")?;
    HFClient::new()?.model(owner, name).snapshot_download().send().await?;
    Ok(())
}
