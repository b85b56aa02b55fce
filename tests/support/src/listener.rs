//! A port of 127.0.0.1 with a thread for each connection; both end with their owner.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    /// Second handles of all connections, to end them with.
    open: Mutex<Vec<TcpStream>>,
}

/// A port that is listened on until this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// A free port; `serve` has each connection to itself, and either side may leave whenever it likes.
    pub(crate) fn start<E>(serve: impl Fn(&TcpStream) -> Result<(), E> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (shared, serve) = (Arc::<Shared>::default(), Arc::new(serve));
        let accepting = Arc::clone(&shared);
        let accept = move || {
            for stream in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(handle) = stream.try_clone() else { continue };
                accepting.open.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || {
                    let _ = serve(&stream);
                    stream.shutdown(Shutdown::Both).ok();
                });
            }
        };
        Self { address, shared, thread: Some(std::thread::spawn(accept)) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a listener panicked");
        }
        for stream in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}
