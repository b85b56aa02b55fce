//! One connection through the proxy: two directions, each a reader and a writer with a queue between them.

use std::io::Result;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Counted, Mode, Shared};

/// Chunks that one direction holds at most; then its sender feels it.
const QUEUE: usize = 1024;
const CHUNK: usize = 16 << 10;

/// A chunk and when it came; no chunk where the sender has ended.
type Item = (Instant, Option<Bytes>);

/// Serves a client until one side breaks, or both have ended.
pub(crate) async fn serve(
    mut client: TcpStream,
    target: String,
    mut mode: watch::Receiver<Mode>,
    counted: Counted,
) {
    if !swallow(&mut client, &mut mode).await {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
        return;
    }
    let shared = counted.shared();
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let ((up, up_queue), (down, down_queue)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
    let client_reads = async {
        let left = read(from_client, up).await;
        drop(counted);
        left
    };
    // The first error ends both directions.
    let _ = tokio::try_join!(
        client_reads,
        write(to_server, up_queue, mode.clone(), shared.clone()),
        read(from_server, down),
        write(to_client, down_queue, mode, shared.clone()),
    );
}

/// Reads and forgets for as long as nothing passes; says whether the client is still there.
async fn swallow(client: &mut TcpStream, mode: &mut watch::Receiver<Mode>) -> bool {
    let mut buffer = vec![0; CHUNK];
    while *mode.borrow_and_update() == Mode::Blackhole {
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return false },
            read = client.read(&mut buffer) => if !read.is_ok_and(|n| n > 0) { return false },
        }
    }
    true
}

async fn read(mut source: impl AsyncRead + Unpin, queue: mpsc::Sender<Item>) -> Result<()> {
    loop {
        let mut chunk = vec![0; CHUNK];
        let n = source.read(&mut chunk).await?;
        chunk.truncate(n);
        let item = (n > 0).then(|| Bytes::from(chunk));
        let ended = item.is_none();
        if queue.send((Instant::now(), item)).await.is_err() || ended {
            return Ok(());
        }
    }
}

async fn write(
    mut sink: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Item>,
    mut mode: watch::Receiver<Mode>,
    shared: Arc<Shared>,
) -> Result<()> {
    while let Some((came, chunk)) = queue.recv().await {
        let passes = held(came, chunk.is_none(), &mut mode).await;
        match chunk {
            Some(chunk) if passes => {
                // Counted first: whoever has the bytes may look at the count.
                shared.passed(chunk.len());
                sink.write_all(&chunk).await?;
            }
            Some(_) => {}
            None => sink.shutdown().await?,
        }
    }
    Ok(())
}

/// Waits until the mode lets the item go; says whether it may pass. An end is never lost, it waits instead.
async fn held(came: Instant, end: bool, mode: &mut watch::Receiver<Mode>) -> bool {
    loop {
        let now = *mode.borrow_and_update();
        let due = match now {
            Mode::Delay(delay) => came + delay,
            Mode::Blackhole if end => came,
            Mode::Blackhole => return false,
            Mode::Pass | Mode::Refuse => return true,
        };
        let waits = now == Mode::Blackhole;
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return true },
            () = tokio::time::sleep_until(due), if !waits => return true,
        }
    }
}
