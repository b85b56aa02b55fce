//! Finds the server that holds the queue, and greets it.
//!
//! A single Redis is where its URL says. Of a master that sentinels watch, all sentinels are asked, and what most
//! say is tried first; a server that calls itself a replica is not taken, whoever names it. In a cluster nodes are asked
//! for one key of the queue: who has it answers, who has not says who has. A key that is just being moved to another
//! node is never asked for there (`ASK`): half of the queue would look like an empty one. The steps wait until the move is
//! over.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::time::timeout;

use super::address::{Address, Mode, Place};
use super::error::{self, Error};
use super::row;
use super::server::Server;

/// How long connecting may take.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take; a Redis that saves or is swapped in can be silent for seconds.
pub(super) const ANSWER: Duration = Duration::from_secs(8);
/// How long a sentinel or a node may take to say where the queue is; a majority that has answered waits for no other.
const ASK: Duration = CONNECT;
/// Servers that are asked at most, and nodes of the cluster that are remembered.
const GUIDES: usize = 16;
/// Servers that are tried one after the other.
const TRIES: usize = 4;

/// A failed step, and whether the next moment may bring a better answer.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) error: Error,
    pub(super) passes: bool,
    /// Who has the queue instead, as a node of the cluster says.
    moved: Option<Place>,
}

impl Fault {
    pub(super) fn lasting(error: Error) -> Self {
        Self { error, passes: false, moved: None }
    }

    fn passing(error: Error) -> Self {
        Self { error, passes: true, moved: None }
    }

    /// What a server refused.
    pub(super) fn of(address: &Address, error: &RedisError) -> Self {
        let moved = redirected(address, error);
        Self { error: error::explain(address, error), passes: passes(address.mode(), error), moved }
    }
}

/// Whether a step that failed like this may be sent again: never refused for a reason of its own, and found a server
/// that is about to be there again or replaced.
fn passes(mode: Mode, error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    let ErrorKind::Server(kind) = error.kind() else { return error.is_connection_dropped() };
    let moves = matches!(kind, Ask | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain);
    kind == BusyLoading || (mode != Mode::Single && moves)
}

/// Who has the key that was asked for, in the words of a node that has it not.
fn redirected(address: &Address, error: &RedisError) -> Option<Place> {
    if error.kind() != ErrorKind::Server(ServerErrorKind::Moved) {
        return None;
    }
    let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
    place(address, host, port.parse().ok()?)
}

/// A place as a server names it: without a host it means its own, and `?` is one that it does not know.
fn place(guide: &Address, host: &str, port: u16) -> Option<Place> {
    match host {
        "?" => None,
        "" => Some((guide.tcp()?.0, port)),
        host => Some((host.to_owned(), port)),
    }
}

/// The server that holds the queue.
#[derive(Clone)]
pub(super) struct Found {
    /// Its own address.
    pub(super) address: Address,
    pub(super) connection: MultiplexedConnection,
    pub(super) server: Server,
    /// Nodes of its cluster.
    pub(super) nodes: Vec<Place>,
}

/// Finds the server that holds the queue; `nodes` are those of the cluster that were there before.
pub(super) async fn find(address: &Address, nodes: &[Place]) -> Result<Found, Fault> {
    if address.mode() == Mode::Single {
        return greet(address).await;
    }
    let mut places = poll(address, nodes).await?;
    let mut first = None;
    for _ in 0..TRIES {
        if places.is_empty() {
            break;
        }
        match greet(&address.at(&places.remove(0))).await {
            Ok(found) => return Ok(found),
            Err(fault) => {
                places.extend(fault.moved.clone());
                first.get_or_insert(fault);
            }
        }
    }
    Err(first.unwrap_or_else(|| Fault::passing(error::nowhere(address))))
}

/// Where the sentinels say that the master is, if more than half of all say so.
pub(super) async fn elected(address: &Address) -> Option<String> {
    let asked = address.guides().len();
    let (votes, _) = ask_all(address, address.guides()).await;
    let (place, count) = votes.into_iter().next()?;
    (count * 2 > asked).then(|| address.at(&place).place().to_owned())
}

/// Where the queue is, as sentinels or nodes say: what most say first.
async fn poll(address: &Address, nodes: &[Place]) -> Result<Vec<Place>, Fault> {
    let mut guides = address.guides();
    for node in nodes {
        if guides.iter().all(|guide| guide.tcp().as_ref() != Some(node)) {
            guides.push(address.at(node));
        }
    }
    guides.truncate(GUIDES);
    let (votes, fault) = ask_all(address, guides).await;
    if votes.is_empty() {
        return Err(fault.unwrap_or_else(|| Fault::passing(error::nowhere(address))));
    }
    Ok(votes.into_iter().map(|(place, _)| place).collect())
}

/// Asks all at once until more than half agree, all have answered or the time is over. The votes, most first; and of
/// several failures the one that says most.
async fn ask_all(address: &Address, guides: Vec<Address>) -> (Vec<(Place, usize)>, Option<Fault>) {
    let asked = guides.len();
    let mut answers: FuturesUnordered<_> =
        guides.into_iter().map(|guide| async { ask(address, guide).await }).collect();
    let (mut votes, mut fault) = (Vec::<(Place, usize)>::new(), None::<Fault>);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(Some(place)) => match votes.iter_mut().find(|(known, _)| *known == place) {
                Some((_, count)) => *count += 1,
                None => votes.push((place, 1)),
            },
            Ok(None) => {}
            // That one lets nobody in says more than that another is away.
            Err(found) if fault.as_ref().is_none_or(|known| known.passes && !found.passes) => {
                fault = Some(found);
            }
            Err(_) => {}
        }
        if votes.iter().any(|(_, count)| count * 2 > asked) {
            break;
        }
    }
    votes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    (votes, fault)
}

/// Where one sentinel or node says that the queue is.
async fn ask(address: &Address, guide: Address) -> Result<Option<Place>, Fault> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(ASK)).set_response_timeout(Some(ASK));
    let answer = async {
        let mut connection = guide.client()?.get_multiplexed_async_connection_with_config(&config).await?;
        let question = match address.mode() {
            Mode::Sentinel => {
                let mut question = redis::cmd("SENTINEL");
                question.arg("get-master-addr-by-name").arg(address.master());
                question
            }
            _ => layout(address.prefix()),
        };
        question.query_async::<Value>(&mut connection).await
    };
    let answer = match timeout(ASK, answer).await {
        Ok(answer) => answer,
        Err(_) => return Err(Fault::passing(error::silent(&guide, ASK.as_secs()))),
    };
    match (address.mode(), answer) {
        (Mode::Sentinel, Ok(Value::Array(parts))) => {
            let [host, port] = parts.as_slice() else { return Err(Fault::passing(error::nowhere(address))) };
            let (host, port) = (row::text(host), row::text(port).and_then(|port| port.parse().ok()));
            Ok(host.zip(port).and_then(|(host, port)| place(&guide, &host, port)))
        }
        (Mode::Sentinel, Ok(_)) => Ok(None),
        (_, Ok(_)) => Ok(guide.tcp()),
        (_, Err(error)) => match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) => Ok(redirected(&guide, &error)),
            // It has the queue, and is giving it away.
            ErrorKind::Server(ServerErrorKind::Ask) => Ok(guide.tcp()),
            _ => Err(Fault::of(&guide, &error)),
        },
    }
}

/// Asks for a key that says, in a cluster, who has the queue.
fn layout(prefix: &str) -> redis::Cmd {
    let mut command = redis::cmd("GET");
    command.arg(format!("{prefix}layout"));
    command
}

/// Connects to one server and asks what it is.
async fn greet(address: &Address) -> Result<Found, Fault> {
    let explain = |error: RedisError| Fault::of(address, &error);
    let client = address.client().map_err(explain)?;
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
    let greet = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let server = Server::ask(&mut connection, address).await?;
        let nodes = match address.mode() {
            Mode::Cluster if server.check(address).is_ok() => nodes(&mut connection, address).await?,
            _ => Vec::new(),
        };
        Ok((connection, server, nodes))
    };
    let (connection, server, nodes) = timeout(ANSWER, greet)
        .await
        .map_err(|_| Fault::lasting(error::silent(address, ANSWER.as_secs())))?
        .map_err(explain)?;
    server.check(address).map_err(|error| Fault {
        // The failover that the others speak of is on its way.
        passes: address.mode() != Mode::Single && server.replica,
        ..Fault::lasting(error)
    })?;
    Ok(Found { address: address.clone(), connection, server, nodes })
}

/// The nodes of the cluster, so that one that is left knows where the others are.
async fn nodes(connection: &mut MultiplexedConnection, address: &Address) -> Result<Vec<Place>, RedisError> {
    let slots: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(connection).await?;
    let mut found = Vec::new();
    let Value::Array(ranges) = slots else { return Ok(found) };
    for range in ranges {
        let Value::Array(parts) = range else { continue };
        // Begin and end of the range, then its master and its replicas.
        for node in parts.into_iter().skip(2) {
            let Value::Array(node) = node else { continue };
            let [host, Value::Int(port), ..] = node.as_slice() else { continue };
            let host = row::text(host).unwrap_or_default();
            let known = u16::try_from(*port).ok().and_then(|port| place(address, &host, port));
            if let Some(known) = known.filter(|known| found.len() < GUIDES && !found.contains(known)) {
                found.push(known);
            }
        }
    }
    Ok(found)
}
