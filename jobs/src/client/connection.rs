//! The way to Redis: one multiplexed connection, made when it is needed and made again when it broke.
//!
//! `redis::aio::ConnectionManager` is not used: it keeps a connection whose answers time out (a peer that
//! vanished behind a firewall), answers the first command after an outage with the old error, and asks a new
//! server nothing; its parts for Sentinel and Cluster keep that, and follow a node that is handing the queue over, where half of
//! it looks like an empty one (see `find`). Every step of the queue may be repeated (see `lua/`), so a step that met a
//! broken connection, or a server that was replaced, is sent again, for a second or three.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use futures_util::StreamExt as _;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{ErrorKind, RedisError, Script, ServerErrorKind, Value};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use super::address::{Address, Mode, Place};
use super::error::{self, Result};
use super::find::{self, ANSWER, CONNECT, Fault, Found};
use super::server::Server;

/// A quiet subscription is asked whether it still lives.
const QUIET: Duration = Duration::from_secs(15);
/// Pauses before a step is sent again over a new connection, each twice as long as the one before: together about a
/// second and a half, and twice that where another server may take over.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_TIMES: usize = 5;
const AGAIN_TIMES_ELSEWHERE: usize = 6;
/// How often sentinels are asked whether a connection still leads to the master: one that is cut off from them may not
/// know that it was replaced.
const RECHECK: Duration = Duration::from_secs(10);
/// How long that may hold up a step.
const RECHECK_PATIENCE: Duration = Duration::from_millis(500);

/// The steps of the queue.
const SCRIPT: &str = concat!(
    include_str!("lua/records.lua"),
    include_str!("lua/rules.lua"),
    include_str!("lua/inbox.lua"),
    include_str!("lua/steps.lua"),
    include_str!("lua/fleet.lua")
);

/// One step: a verb of `lua/steps.lua` and its arguments.
#[derive(Debug, Clone)]
pub struct Step(Vec<Vec<u8>>);

impl Step {
    /// A step without arguments.
    pub fn new(verb: &str) -> Self {
        Self(vec![verb.into()])
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, value: impl ToString) -> Self {
        self.0.push(value.to_string().into_bytes());
        self
    }

    /// With one more argument, empty if there is none.
    #[must_use]
    pub fn maybe(self, value: Option<impl ToString>) -> Self {
        let text = value.map(|value| value.to_string());
        self.arg(text.unwrap_or_default())
    }
}

/// A way to the queue that any number of tasks share.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    address: Address,
    script: Script,
    current: Mutex<Current>,
    /// Where the queue was last, for those who listen there.
    place: watch::Sender<String>,
}

#[derive(Default)]
struct Current {
    /// Tells a connection from the one before.
    number: u64,
    open: Option<(Found, Instant)>,
    /// Nodes of the cluster that were there before.
    nodes: Vec<Place>,
    /// The last attempt that failed, and when: whoever waited for it need not wait for one of his own.
    failed: Option<(Instant, Fault)>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.inner.address).finish_non_exhaustive()
    }
}

impl Connection {
    /// A way to the queue at `address`. Nothing is sent yet.
    pub fn new(address: Address) -> Self {
        Self::with_script(address, SCRIPT)
    }

    /// The same with steps of another kind; a test puts its own clock in.
    #[doc(hidden)]
    pub fn with_script(address: Address, script: &str) -> Self {
        let script = Script::new(script);
        let place = watch::Sender::new(address.place().to_owned());
        Self { inner: Arc::new(Inner { address, script, current: Mutex::default(), place }) }
    }

    /// The text of the steps.
    #[doc(hidden)]
    pub fn script() -> &'static str {
        SCRIPT
    }

    /// Where the queue is.
    pub fn address(&self) -> &Address {
        &self.inner.address
    }

    /// What the server says of itself; connects if need be.
    ///
    /// # Errors
    /// `queue_unavailable` while the server cannot be reached or will not do, `unsupported_version` if a newer
    /// larder keeps its queue there.
    pub async fn server(&self) -> Result<Server> {
        self.open().await.map(|(_, found)| found.server).map_err(|fault| fault.error)
    }

    /// Runs one step.
    ///
    /// # Errors
    /// As [`Connection::server`].
    pub async fn run(&self, step: &Step) -> Result<Value> {
        let mut command = self.inner.script.key(self.inner.address.prefix());
        for argument in &step.0 {
            command.arg(argument);
        }
        let command = &command;
        self.send(|mut connection| async move { command.invoke_async(&mut connection).await }).await
    }

    /// Runs one plain command that may be repeated.
    ///
    /// # Errors
    /// As [`Connection::server`].
    pub async fn command(&self, command: &redis::Cmd) -> Result<Value> {
        self.send(|mut connection| async move { command.query_async(&mut connection).await }).await
    }

    /// Asks over the connection in use; over a new one if that broke.
    async fn send<F>(&self, ask: impl Fn(MultiplexedConnection) -> F) -> Result<Value>
    where
        F: Future<Output = Result<Value, RedisError>>,
    {
        let once = || async {
            let (number, Found { address, connection, .. }) = self.open().await?;
            match timeout(ANSWER + CONNECT, ask(connection)).await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(self.broken(number, &address, &error).await),
                Err(_) => Err(self.silent(number, &address).await),
            }
        };
        let times = match self.inner.address.mode() {
            Mode::Single => AGAIN_TIMES,
            Mode::Sentinel | Mode::Cluster => AGAIN_TIMES_ELSEWHERE,
        };
        let pauses = ExponentialBuilder::default().with_min_delay(AGAIN).with_max_times(times);
        once.retry(pauses).when(|fault: &Fault| fault.passes).await.map_err(|fault| fault.error)
    }

    /// Listens to `channels` (without the prefix) over a connection of its own.
    ///
    /// # Errors
    /// As [`Connection::server`].
    pub async fn listen(&self, channels: &[String]) -> Result<Messages> {
        let (_, Found { address, .. }) = self.open().await.map_err(|fault| fault.error)?;
        let explain = |error: RedisError| error::explain(&address, &error);
        let client = address.client().map_err(explain)?;
        let open = async {
            let (mut sink, stream) = client.get_async_pubsub().await?.split();
            let channels: Vec<_> =
                channels.iter().map(|name| format!("{}{name}", address.prefix())).collect();
            sink.subscribe(channels).await?;
            Ok((sink, stream))
        };
        let (sink, stream) = timeout(CONNECT, open)
            .await
            .map_err(|_| error::silent(&address, CONNECT.as_secs()))?
            .map_err(explain)?;
        Ok(Messages { sink, stream, place: self.inner.place.subscribe(), address })
    }

    /// The connection in use, or a new one.
    async fn open(&self) -> Result<(u64, Found), Fault> {
        let asked = Instant::now();
        let mut current = self.inner.current.lock().await;
        self.recheck(&mut current).await;
        if let Some((found, _)) = &current.open {
            return Ok((current.number, found.clone()));
        }
        if let Some((at, fault)) = &current.failed
            && *at >= asked
        {
            return Err(fault.clone());
        }
        match find::find(&self.inner.address, &current.nodes).await {
            Ok(found) => {
                current.number += 1;
                current.nodes.clone_from(&found.nodes);
                current.open = Some((found.clone(), Instant::now()));
                self.inner.place.send_if_modified(|place| {
                    let moved = place != found.address.place();
                    found.address.place().clone_into(place);
                    moved
                });
                Ok((current.number, found))
            }
            Err(fault) => {
                current.failed = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    /// Leaves a server that the sentinels do not call the master any more.
    async fn recheck(&self, current: &mut Current) {
        let address = &self.inner.address;
        let Some((found, checked)) = &mut current.open else { return };
        if address.mode() != Mode::Sentinel || checked.elapsed() < RECHECK {
            return;
        }
        *checked = Instant::now();
        let elected = timeout(RECHECK_PATIENCE, find::elected(address)).await;
        if elected.is_ok_and(|place| place.is_some_and(|place| place != found.address.place())) {
            current.open = None;
        }
    }

    /// What a step that failed means; a connection that is of no more use is given up.
    async fn broken(&self, number: u64, address: &Address, error: &RedisError) -> Fault {
        use ServerErrorKind::{ClusterDown, MasterDown, Moved, ReadOnly};
        if error.is_timeout() {
            return self.silent(number, address).await;
        }
        // It was made a replica, or has lost the queue: ask again who has it.
        let replaced = matches!(error.kind(), ErrorKind::Server(ReadOnly | Moved | ClusterDown | MasterDown));
        if replaced || error.is_unrecoverable_error() || error.is_io_error() {
            self.give_up(number).await;
        }
        Fault::of(address, error)
    }

    async fn silent(&self, number: u64, address: &Address) -> Fault {
        self.give_up(number).await;
        Fault::lasting(error::silent(address, ANSWER.as_secs()))
    }

    async fn give_up(&self, number: u64) {
        let mut current = self.inner.current.lock().await;
        if current.number == number {
            current.open = None;
        }
    }
}

/// What was said on the channels that are listened to, from now on.
pub struct Messages {
    sink: PubSubSink,
    stream: PubSubStream,
    place: watch::Receiver<String>,
    address: Address,
}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Messages {
    /// The next message.
    ///
    /// # Errors
    /// `queue_unavailable` when the connection broke; what was said meanwhile is lost.
    pub async fn next(&mut self) -> Result<String> {
        let address = &self.address;
        loop {
            let said = tokio::select! {
                said = timeout(QUIET, self.stream.next()) => said,
                // An error says that nobody asks for anything any more.
                Ok(place) = self.place.wait_for(|place| place != address.place()) => {
                    let what = format!("has left the queue to {}", *place);
                    return Err(error::unavailable(address.place(), &what, "listen there"));
                }
            };
            match said {
                Ok(Some(message)) => {
                    return Ok(String::from_utf8_lossy(message.get_payload_bytes()).into_owned());
                }
                Ok(None) => {
                    let hint = "see whether it restarts";
                    return Err(error::unavailable(address.place(), "closed the connection", hint));
                }
                Err(_) => {
                    timeout(ANSWER, self.sink.ping::<Value>())
                        .await
                        .map_err(|_| error::silent(address, ANSWER.as_secs()))?
                        .map_err(|error| error::explain(address, &error))?;
                }
            }
        }
    }
}
