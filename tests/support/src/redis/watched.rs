//! A master and a replica that three sentinels watch.

use std::time::{Duration, Instant};

use super::{PATIENCE, Redis, RedisOptions};

/// What the sentinels call the master.
pub const MASTER: &str = "mymaster";

/// Two servers and three sentinels; a second of silence makes the replica the master.
#[derive(Debug)]
pub struct Watched {
    /// The master at the beginning, then the replica.
    pub servers: [Redis; 2],
    /// Those who watch.
    pub sentinels: Vec<Redis>,
}

impl Watched {
    /// Starts them without passwords and TLS.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(&RedisOptions::default(), &RedisOptions::default(), &[])
    }

    /// Starts servers and sentinels like these, the sentinels with further lines of `sentinel.conf` about the master
    /// (`auth-pass mymaster …`). With TLS all of them have it among each other as well.
    #[track_caller]
    pub fn with(servers: &RedisOptions, sentinels: &RedisOptions, lines: &[&str]) -> Self {
        let master = Redis::with(servers.clone());
        let port = |redis: &Redis| if servers.tls { redis.tls_port() } else { redis.port() };
        let with_tls = |options: RedisOptions| match servers.tls {
            true => options.tls_like(&master).directive("tls-replication", "yes"),
            false => options,
        };
        let follow = format!("127.0.0.1 {}", port(&master));
        let replica = Redis::with(with_tls(servers.clone()).directive("replicaof", &follow));
        if servers.tls {
            // To be followed over TLS later it needs to know whom to trust, which it does; and to follow.
            master.command(&["CONFIG", "SET", "tls-replication", "yes"]);
        }
        wait(&replica, |redis| redis.info("master_link_status") == "up");
        let watch = |lines: &[&str]| {
            let monitor = format!("monitor {MASTER} {follow} 2");
            let set = |what: &str, millis: u32| format!("{what} {MASTER} {millis}");
            let timing = [monitor, set("down-after-milliseconds", 1_000), set("failover-timeout", 5_000)];
            let all = timing.iter().map(String::as_str).chain(lines.iter().copied());
            all.fold(with_tls(sentinels.clone()).sentinel(), |options, line| {
                options.directive("sentinel", line)
            })
        };
        let watching: Vec<_> = (0..3).map(|_| Redis::with(watch(lines))).collect();
        let watched = Self { servers: [master, replica], sentinels: watching };
        for sentinel in &watched.sentinels {
            wait(sentinel, |sentinel| {
                let seen = sentinel.command(&["SENTINEL", "MASTER", MASTER]).pairs();
                seen["num-slaves"] == "1" && seen["num-other-sentinels"] == "2"
            });
        }
        watched
    }

    /// The addresses of the sentinels, as `queue.urls` takes them from a variable.
    pub fn urls(&self) -> String {
        let tls = self.servers[0].options.tls;
        let url = |redis: &Redis| if tls { redis.tls_url() } else { redis.tcp_url() };
        self.sentinels.iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// Waits until the replica is the master and every sentinel says so.
    #[track_caller]
    pub fn wait_failover(&self) {
        let replica = &self.servers[1];
        let port = if replica.options.tls { replica.tls_port() } else { replica.port() };
        for sentinel in &self.sentinels {
            wait(sentinel, |sentinel| {
                let named = sentinel.command(&["SENTINEL", "get-master-addr-by-name", MASTER]);
                named.list()[1] == port.to_string()
            });
        }
        wait(replica, |redis| redis.info("role") == "master");
    }
}

/// Waits until it is so.
#[track_caller]
pub(super) fn wait(redis: &Redis, so: impl Fn(&Redis) -> bool) {
    let begun = Instant::now();
    while !so(redis) {
        assert!(begun.elapsed() < PATIENCE, "it never is so\n{}", redis.logs().join("\n"));
        std::thread::sleep(Duration::from_millis(20));
    }
}
