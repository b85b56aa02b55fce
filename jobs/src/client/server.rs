//! What a Redis says of itself, and whether it will do as a queue.

use redis::aio::MultiplexedConnection;
use redis::{InfoDict, RedisError};

use super::address::{Address, Mode};
use super::error::{self, Error, Result};
use crate::{Invalid, Reason};

/// The version of the keys that this crate writes, and the newest that it reads.
pub const LAYOUT: u64 = 1;
/// The oldest Redis that will do.
const OLDEST: (u64, u64) = (6, 2);

/// What a Redis says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it is: host and port, or the socket.
    pub place: String,
    /// Its version, as of Redis (Valkey says which Redis it replaces).
    pub version: String,
    /// How it is run, in its own words: `standalone`, `cluster` or `sentinel`.
    pub mode: String,
    /// Whether it is a replica.
    pub replica: bool,
    /// Whether it writes every change to an append-only file; else a crash loses accepted jobs.
    pub append_only: bool,
    /// Whether it throws away keys of its own accord when its memory is full.
    pub evicts: bool,
    /// The version of the queue's keys, if there are any.
    pub layout: Option<u64>,
}

impl Server {
    pub(super) async fn ask(
        connection: &mut MultiplexedConnection,
        address: &Address,
    ) -> Result<Self, RedisError> {
        let info: InfoDict = redis::cmd("INFO").query_async(connection).await?;
        let text = |key: &str| info.get::<String>(key).unwrap_or_default();
        let policy = text("maxmemory_policy");
        let server = Self {
            place: address.place().to_owned(),
            version: text("redis_version"),
            mode: text("redis_mode"),
            replica: text("role") == "slave",
            append_only: text("aof_enabled") == "1",
            evicts: text("maxmemory") != "0" && !policy.is_empty() && policy != "noeviction",
            layout: None,
        };
        // What will not do anyway need not know any other command.
        if server.check(address).is_err() {
            return Ok(server);
        }
        let layout =
            redis::cmd("GET").arg(format!("{}layout", address.prefix())).query_async(connection).await?;
        Ok(Self { layout, ..server })
    }

    /// Whether it will do as a queue.
    pub(super) fn check(&self, address: &Address) -> Result<()> {
        let place = address.place();
        let mut numbers = self.version.split('.').map(|part| part.parse::<u64>().ok());
        let (Some(major), Some(minor)) = (numbers.next().flatten(), numbers.next().flatten()) else {
            return Err(error::not_redis(address));
        };
        if (major, minor) < OLDEST {
            let what = format!("is version {}, and larder needs 6.2 or newer", self.version);
            return Err(error::unavailable(place, &what, "upgrade it to Redis 7 or Valkey"));
        }
        if self.mode == "sentinel" {
            let hint = "set queue.mode = \"sentinel\", queue.urls and queue.master_name";
            return Err(error::unavailable(place, "is a sentinel and has no queue", hint));
        }
        if self.mode != "cluster" && address.mode() == Mode::Cluster {
            return Err(error::no_cluster(address));
        }
        if self.replica {
            return Err(error::read_only(address));
        }
        match self.layout {
            Some(layout) if layout > LAYOUT => {
                let newer = Invalid::newer(layout, LAYOUT);
                Err(Error::new(
                    Reason::UnsupportedVersion,
                    format!("the queue at {place} was written by a newer larder (keys of version {layout})"),
                    newer.hint(),
                ))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_recent_master_with_known_keys_will_do() {
        let good = Server {
            place: "h:6379".into(),
            version: "6.2.0".into(),
            mode: "standalone".into(),
            replica: false,
            append_only: true,
            evicts: false,
            layout: Some(LAYOUT),
        };
        let address = Address::new("redis://h", "larder").expect("an address");
        assert_eq!(good.check(&address), Ok(()));
        for (bad, word) in [
            (Server { version: "6.0.16".into(), ..good.clone() }, "6.0.16"),
            (Server { version: String::new(), ..good.clone() }, "does not answer like a Redis"),
            (Server { replica: true, ..good.clone() }, "replica"),
            (Server { layout: Some(LAYOUT + 1), ..good.clone() }, "newer larder"),
            (Server { mode: "sentinel".into(), ..good.clone() }, "is a sentinel"),
        ] {
            let error = bad.check(&address).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(Server { version: "10.0.1".into(), layout: None, ..good.clone() }.check(&address), Ok(()));
        let cluster = Address::cluster(&["redis://h"], "larder").expect("an address");
        assert!(good.check(&cluster).expect_err("alone").to_string().contains("no node of a cluster"));
        assert_eq!(Server { mode: "cluster".into(), ..good }.check(&cluster), Ok(()));
    }
}
