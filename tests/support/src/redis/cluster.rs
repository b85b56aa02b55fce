//! A cluster of three masters, and a replica of the one that has a given key.

use super::watched::wait;
use super::{Redis, RedisOptions, Reply};
use crate::port::Port;

/// Slots of each master, first and last.
const SLOTS: [[&str; 2]; 3] = [["0", "5460"], ["5461", "10922"], ["10923", "16383"]];

/// Four nodes; a second and a half of silence makes the replica the master of its slots.
#[derive(Debug)]
pub struct Cluster {
    /// The three masters at the beginning, then the replica.
    pub nodes: Vec<Redis>,
    /// Which of the masters has the key.
    pub home: usize,
    slot: String,
    /// Held for the nodes' talk among each other.
    _ports: Vec<Port>,
}

impl Cluster {
    /// Starts one like this, with a replica for the node of `key`.
    #[track_caller]
    pub fn with(options: &RedisOptions, key: &str) -> Self {
        let ports: Vec<_> = (0..4).map(|_| Port::free()).collect();
        let mut nodes = Vec::<Redis>::new();
        for port in &ports {
            let mut node = options.clone();
            if let Some(first) = nodes.first().filter(|_| options.tls) {
                node = node.tls_like(first);
            }
            let lines = [("cluster-enabled", "yes"), ("cluster-node-timeout", "1500")];
            let node = lines.into_iter().fold(node, |node, (name, value)| node.directive(name, value));
            let number = port.number().to_string();
            nodes.push(Redis::with(node.directive("cluster-port", &number)));
        }
        for (n, node) in nodes.iter().enumerate() {
            if let Some([first, last]) = SLOTS.get(n) {
                ok(node, &["CLUSTER", "ADDSLOTSRANGE", first, last]);
            }
            ok(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
            let (port, bus) = (nodes[0].port().to_string(), ports[0].number().to_string());
            if n > 0 {
                ok(node, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        let slot = nodes[0].command(&["CLUSTER", "KEYSLOT", key]).int();
        let has = |[first, last]: &[&str; 2]| (number(first)..=number(last)).contains(&slot);
        let home = SLOTS.iter().position(has).expect("every slot has a master");
        let cluster = Self { nodes, home, slot: slot.to_string(), _ports: ports };
        cluster.wait_whole();
        let (replica, master) = (&cluster.nodes[3], cluster.id(home));
        ok(replica, &["CLUSTER", "REPLICATE", &master]);
        wait(replica, |node| node.info("role") == "slave" && node.info("master_link_status") == "up");
        cluster
    }

    /// Addresses of all nodes, as `queue.urls` takes them from a variable.
    pub fn urls(&self) -> String {
        let url = |node: &Redis| if node.options.tls { node.tls_url() } else { node.tcp_url() };
        self.nodes.iter().map(url).collect::<Vec<_>>().join(",")
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].command(&["CLUSTER", "MYID"]).text()
    }

    /// Waits until every node that runs knows all and calls the cluster whole.
    #[track_caller]
    pub fn wait_whole(&self) {
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            wait(node, |node| {
                let info = node.command(&["CLUSTER", "INFO"]).text();
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:4")
            });
        }
    }

    /// Waits until the replica has taken over from the node of the key.
    #[track_caller]
    pub fn wait_failover(&self) {
        wait(&self.nodes[3], |node| node.info("role") == "master");
        self.wait_whole();
    }

    /// Says that the slot of the key is on its way to another master.
    #[track_caller]
    pub fn begin_move(&self, to: usize) {
        let slot = &self.slot;
        ok(&self.nodes[to], &["CLUSTER", "SETSLOT", slot, "IMPORTING", &self.id(self.home)]);
        ok(&self.nodes[self.home], &["CLUSTER", "SETSLOT", slot, "MIGRATING", &self.id(to)]);
    }

    /// Moves the keys, and says that the slot is there now.
    #[track_caller]
    pub fn end_move(&self, to: usize) {
        let (slot, home, id) = (&self.slot, &self.nodes[self.home], self.id(to));
        let port = self.nodes[to].port().to_string();
        for key in home.command(&["CLUSTER", "GETKEYSINSLOT", slot, "100000"]).list() {
            ok(home, &["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
        }
        for node in [to, self.home] {
            ok(&self.nodes[node], &["CLUSTER", "SETSLOT", slot, "NODE", &id]);
        }
    }
}

fn number(slot: &str) -> i64 {
    slot.parse().expect("a number")
}

#[track_caller]
fn ok(node: &Redis, words: &[&str]) {
    assert_eq!(node.command(words), Reply::Text("OK".into()), "{words:?}");
}
