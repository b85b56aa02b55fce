//! A network that fails on demand: a TCP proxy whose switches take effect for open connections too.
//!
//! It runs on a thread of its own, so a synchronous test can block on it and an asynchronous one is not disturbed.

mod pump;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::port::Port;

/// What happens to the connections. One at a time: a new one replaces the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    Delay(Duration),
    Blackhole,
    Refuse,
}

/// What the thread is told, and whom it tells that it is so.
type Order = (Change, std_mpsc::Sender<()>);

#[derive(Debug)]
enum Change {
    Mode(Mode),
    Cut,
}

/// What is counted.
#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    counts: Mutex<Counts>,
    changed: Condvar,
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts());
        self.changed.notify_all();
    }

    pub(crate) fn passed(&self, bytes: usize) {
        self.change(|counts| counts.bytes += bytes as u64);
    }
}

/// One connection from a client, as long as it is counted.
pub(crate) struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: Arc<Shared>) -> Self {
        shared.change(|counts| counts.connections += 1);
        Self(shared)
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.0.clone()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.change(|counts| counts.connections -= 1);
    }
}

/// A TCP proxy; ends with all its connections when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts one on a free port of 127.0.0.1 in front of this `host:port`, which need not be up.
    pub fn to(target: impl ToString) -> Self {
        let (port, shared) = (Port::free(), Arc::new(Shared::default()));
        let address = port.address();
        let (orders, inbox) = mpsc::unbounded_channel();
        let (ready, started) = std_mpsc::channel();
        let (target, counted) = (target.to_string(), shared.clone());
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime for the proxy").block_on(async move {
                let listener = port.listen();
                ready.send(()).expect("the starter waits");
                accept(port, listener, target, counted, inbox).await;
            });
        };
        let thread =
            std::thread::Builder::new().name("test-proxy".into()).spawn(run).expect("a thread for the proxy");
        started.recv().expect("the proxy starts");
        Self { address, orders: Some(orders), thread: Some(thread), shared }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// `redis://127.0.0.1:PORT`, without a password.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Closes all open connections and goes on accepting. Returns when they are closed.
    pub fn cut(&self) {
        self.order(Change::Cut);
    }

    /// Cuts, and refuses new connections.
    pub fn refuse(&self) {
        self.order(Change::Mode(Mode::Refuse));
    }

    /// Holds each chunk that long, in both directions. Chunks keep their order and do not wait for one another.
    pub fn delay(&self, delay: Duration) {
        self.order(Change::Mode(Mode::Delay(delay)));
    }

    /// Swallows all bytes. Connections stay open, new ones are accepted and never answered, and nobody learns that the
    /// other side has left. What was swallowed stays lost after [`Proxy::pass`].
    pub fn blackhole(&self) {
        self.order(Change::Mode(Mode::Blackhole));
    }

    /// Back to normal; held chunks go on at once.
    pub fn pass(&self) {
        self.order(Change::Mode(Mode::Pass));
    }

    /// Connections that their clients hold open now.
    pub fn connections(&self) -> usize {
        self.shared.counts().connections
    }

    /// Blocks until this many connections are open; false when the time is over.
    pub fn wait_for_connections(&self, n: usize, timeout: Duration) -> bool {
        let other = |counts: &mut Counts| counts.connections != n;
        let waited = self.shared.changed.wait_timeout_while(self.shared.counts(), timeout, other);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Bytes handed on since the start, both directions together.
    pub fn bytes_passed(&self) -> u64 {
        self.shared.counts().bytes
    }

    fn order(&self, change: Change) {
        let (done, ack) = std_mpsc::channel();
        let orders = self.orders.as_ref().expect("orders end with the proxy");
        orders.send((change, done)).expect("the proxy runs");
        ack.recv().expect("the proxy runs");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the proxy panicked");
        }
    }
}

/// Accepts connections until the orders end.
async fn accept(
    port: Port,
    listener: TcpListener,
    target: String,
    shared: Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let (mode, watched) = watch::channel(Mode::Pass);
    let mut listener = Some(listener);
    let mut open = JoinSet::new();
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => {
                let Some((change, done)) = order else { return };
                if let Change::Mode(new) = change {
                    mode.send_replace(new);
                    listener = match (new, listener.take()) {
                        (Mode::Refuse, _) => None,
                        (_, listening) => Some(listening.unwrap_or_else(|| port.listen())),
                    };
                }
                if matches!(change, Change::Cut | Change::Mode(Mode::Refuse)) {
                    open.shutdown().await;
                }
                done.send(()).ok();
            }
            accepted = accepted => if let Ok((client, _)) = accepted {
                open.spawn(pump::serve(client, target.clone(), watched.clone(), Counted::new(shared.clone())));
            },
            Some(_) = open.join_next() => {}
        }
    }
}
