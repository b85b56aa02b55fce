//! The content-addressed store behind Xet, on this machine: the real protocol, served from memory by Xet's own local
//! server. Files get in through Xet's own client, as an upload to the hub would put them.

use tempfile::TempDir;
use tokio::runtime::Runtime;
use xet::xet_session::{Sha256Policy, XetSessionBuilder};
use xet_client::cas_client::simulation::{LocalTestServer, LocalTestServerBuilder};

use crate::hub::Content;

/// The store; ends when dropped.
pub struct Cas {
    runtime: Runtime,
    server: Option<LocalTestServer>,
    /// Where the client that uploads keeps its own files.
    scratch: TempDir,
}

impl Cas {
    /// Starts an empty store on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime for the store");
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let server = Some(runtime.block_on(LocalTestServerBuilder::new().start()));
        Self { runtime, server, scratch }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        self.server.as_ref().expect("it runs until it is dropped").http_endpoint().to_owned()
    }

    /// Takes a file in; returns its Xet hash.
    pub fn put(&self, content: &Content) -> String {
        let bytes = content.slice(0, content.len()).expect("the content can be read");
        let upload = async {
            let session = XetSessionBuilder::new().with_cache_dir(self.scratch.path()).build()?;
            let commit = session.new_upload_commit()?.with_endpoint(self.endpoint()).build().await?;
            let file = commit.upload_bytes(bytes, Sha256Policy::Compute, None).await?;
            commit.commit().await?;
            Ok::<_, xet::XetError>(
                file.try_finish().expect("the commit is complete").xet_info.hash().to_owned(),
            )
        };
        self.runtime.block_on(upload).expect("the store takes a file")
    }
}

impl Drop for Cas {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.server = None;
    }
}
