//! The two listeners and the thread that they live on.

use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::record::Host;
use super::state::Shared;
use super::wire;
use crate::port::Port;

/// What a listener is told: be down or up, and say when it is so.
type Order = (bool, std_mpsc::Sender<()>);

/// The running servers; dropping it stops them.
#[derive(Debug)]
pub(crate) struct Server {
    orders: Vec<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> (Self, Arc<Shared>) {
        let (ready, started) = std_mpsc::channel();
        let (hub_orders, hub_inbox) = mpsc::unbounded_channel();
        let (cdn_orders, cdn_inbox) = mpsc::unbounded_channel();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime for the test hub").block_on(async move {
                let (hub, cdn) = (Door::open(), Door::open());
                let shared = Arc::new(Shared::new(hub.url(), cdn.url()));
                ready.send(shared.clone()).expect("the starter waits");
                tokio::join!(
                    accept(hub, Host::Hub, shared.clone(), hub_inbox),
                    accept(cdn, Host::Cdn, shared.clone(), cdn_inbox),
                );
            });
        };
        let thread =
            std::thread::Builder::new().name("test-hub".into()).spawn(run).expect("a thread for the hub");
        let shared = started.recv().expect("the test hub starts");
        (Self { orders: vec![hub_orders, cdn_orders], thread: Some(thread) }, shared)
    }

    pub(crate) fn down(&self, down: bool) {
        for orders in &self.orders {
            let (done, ack) = std_mpsc::channel();
            orders.send((down, done)).expect("the test hub runs");
            ack.recv().expect("the test hub runs");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.orders.clear();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the test hub panicked");
        }
    }
}

/// A port of this machine, open or shut.
struct Door {
    port: Port,
    listener: Option<TcpListener>,
}

impl Door {
    /// A free port, listening.
    fn open() -> Self {
        let port = Port::free();
        let listener = Some(port.listen());
        Self { port, listener }
    }

    fn url(&self) -> String {
        format!("http://{}", self.port.address())
    }

    fn set_down(&mut self, down: bool) {
        if down {
            self.listener = None;
        } else if self.listener.is_none() {
            self.listener = Some(self.port.listen());
        }
    }
}

/// Accepts connections until the orders end.
async fn accept(mut door: Door, host: Host, shared: Arc<Shared>, mut orders: mpsc::UnboundedReceiver<Order>) {
    loop {
        let order = match &door.listener {
            Some(listener) => tokio::select! {
                order = orders.recv() => order,
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        tokio::spawn(wire::serve(stream, host, shared.clone()));
                    }
                    continue;
                }
            },
            None => orders.recv().await,
        };
        let Some((down, done)) = order else { return };
        door.set_down(down);
        done.send(()).ok();
    }
}
