//! What `deploy/` ships, put to work: the Redis of the compose file with a real larder, the example pod's script, and the
//! table of docs/deploy.md about who may evict what.

mod compose;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use support::fs::is_root;
use support::{Daemon, DaemonOptions, Hub, Larder, models};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);
const BINARY: &str = env!("CARGO_BIN_EXE_larder");

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Redis that deploy/compose/redis.sh starts, with this password, and its port.
fn redis(folder: &TempDir, password: &str) -> (Daemon, u16) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    fs::write(folder.path().join("password"), password).expect("written");
    fs::create_dir(folder.path().join("data")).expect("made");
    let mut command = Command::new("sh");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose/redis.sh"));
    command.env("REDIS_PORT", port.to_string()).env("REDIS_PASSWORD_FILE", folder.path().join("password"));
    command.env("REDIS_RUN", folder.path()).env("REDIS_DATA", folder.path().join("data"));
    let options = DaemonOptions { state_dir: folder.path().into(), cache_dir: folder.path().into() };
    (Daemon::spawn(command, options), port)
}

#[test]
fn the_redis_of_the_compose_file_gives_larder_what_it_needs_and_nobody_else_anything() {
    let folder = tempfile::tempdir().expect("temp folder");
    let (redis, port) = redis(&folder, "a password of a file\n");
    assert!(redis.wait_line(|line| line.contains("Ready to accept connections"), SOON).is_some());
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    let larder = Larder::new(Path::new(BINARY))
        .hub(&hub)
        .env("LARDER__QUEUE__URL", format!("redis://127.0.0.1:{port}"))
        .env("LARDER__QUEUE__USERNAME", "larder")
        .env("LARDER__QUEUE__PASSWORD_FILE", folder.path().join("password"));
    let daemon = larder.serve();
    larder.run(&["stage", "test/tiny-gpt2-1"]).expect_code(0);
    let warnings =
        daemon.logs().into_iter().filter(|line| line.contains("appendonly") || line.contains("noeviction"));
    assert_eq!(
        warnings.collect::<Vec<_>>(),
        Vec::<String>::new(),
        "larder has nothing to say about this Redis"
    );

    let asked =
        Command::new("redis-cli").args(["-p", &port.to_string(), "ping"]).output().expect("redis-cli");
    assert!(String::from_utf8_lossy(&asked.stdout).contains("NOAUTH"), "{asked:?}");
    let arguments = fs::read_to_string(format!("/proc/{}/cmdline", redis.pid())).expect("it runs");
    assert!(!arguments.contains("password of a file"), "{arguments}");
}

#[test]
fn the_redis_of_the_compose_file_has_the_rules_of_the_document_and_refuses_an_empty_password() {
    let (script, document) = (read("deploy/compose/redis.sh"), read("docs/queue.md"));
    let rules = |text: &str| {
        text.lines().find_map(|line| line.split_once("~{larder}:*").map(|(_, rest)| rest.to_owned()))
    };
    let shipped = rules(&script).expect("the user's line");
    assert!(shipped.contains("+evalsha") && rules(&document).as_ref() == Some(&shipped), "{shipped}");
    let folder = tempfile::tempdir().expect("temp folder");
    let (mut refused, _) = redis(&folder, "\n");
    assert_eq!(refused.wait_exit(SOON).and_then(|status| status.code()), Some(2));
    assert!(
        refused.logs().iter().any(|line| line.contains("the password file is empty")),
        "{:?}",
        refused.logs()
    );
}

/// The script in the example pod's ConfigMap.
fn stage_script(folder: &Path) -> PathBuf {
    let manifest = read("deploy/kubernetes/example-pod.yaml");
    let (_, block) = manifest.split_once("  stage.sh: |\n").expect("the script");
    let script: String =
        block.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    let path = folder.join("stage.sh");
    fs::write(&path, script).expect("written");
    path
}

#[test]
fn the_example_pod_waits_until_its_model_is_there_and_holds_it() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    let larder = Larder::new(Path::new(BINARY)).hub(&hub);
    let daemon = larder.serve();
    let script = stage_script(larder.root());
    fs::write(larder.root().join("token"), "t0ken").expect("written");
    let stage = |model: &str| -> Output {
        let mut command = Command::new("sh");
        command.arg(&script).env("LARDER", format!("http://{}", daemon.address())).env("MODEL", model);
        command.env("POD", "pod-1").env("TOKEN_FILE", larder.root().join("token")).env("NO_PROXY", "*");
        command.output().expect("sh and curl")
    };
    let staged = stage("test/tiny-gpt2-1");
    let said = String::from_utf8_lossy(&staged.stdout).into_owned();
    assert!(staged.status.success() && said.ends_with("ready\n"), "{staged:?}");
    let models = daemon.get("/v1/models").expect(200);
    let leases = models["models"][0]["leases"].to_string();
    assert!(leases.contains("pod-1"), "{models}");

    for (model, why) in [("test/nothing", "not_found"), ("no name", "invalid_request")] {
        let failed = stage(model);
        let told = String::from_utf8_lossy(&failed.stderr);
        assert!(!failed.status.success() && told.contains(why), "{failed:?}");
    }
}

/// A cache that uid 2000 fills, and a copy of larder that every user may run.
struct Shared {
    root: TempDir,
    hub: Hub,
}

impl Shared {
    const MODEL: &str = "test/tiny-gpt2-1";

    fn new() -> Self {
        let (root, hub) = (tempfile::tempdir().expect("temp folder"), Hub::start());
        hub.add(models::tiny_gpt2(1, 20_000));
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("opened to all");
        fs::copy(BINARY, root.path().join("larder")).expect("copied");
        let shared = Self { root, hub };
        shared.folder("hub", 2000);
        shared
    }

    fn folder(&self, name: &str, uid: u32) -> PathBuf {
        let path = self.root.path().join(name);
        fs::create_dir_all(&path).expect("made");
        chown(&path, Some(uid), Some(uid)).expect("given");
        path
    }

    /// larder as that user with those capabilities and no others.
    fn run(&self, uid: u32, capabilities: &str, args: &[&str]) -> Output {
        let state = self.folder(&format!("state-{uid}"), uid);
        let (user, rights) = (uid.to_string(), format!("-all{capabilities}"));
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--inh-caps", &rights]);
        command.args(["--ambient-caps", &rights, "--bounding-set", &rights]);
        command.arg(self.root.path().join("larder")).args(args).env_clear().current_dir(self.root.path());
        command.env("HOME", &state).env("LARDER__STATE__PATH", &state).env("NO_PROXY", "*");
        command.env("HF_ENDPOINT", self.hub.endpoint()).env("HF_HUB_CACHE", self.root.path().join("hub"));
        command.env("LARDER__CACHE__EVICT", "all").env("LARDER__CACHE__MIN_AGE", "0s");
        command.env("LARDER__CACHE__KEEP_FREE", "0");
        command.output().expect("setpriv")
    }

    /// Whether the model of uid 2000 goes by itself, and whether it goes by its name.
    fn goes(&self, uid: u32, capabilities: &str) -> (bool, bool) {
        let staged = self.run(2000, "", &["stage", Self::MODEL]);
        assert!(staged.status.success(), "{staged:?}");
        let planned = self.run(uid, capabilities, &["evict", "--free", "1GB", "--dry-run", "--json"]);
        let plan: serde_json::Value = serde_json::from_slice(&planned.stdout).expect("a plan");
        let by_itself = plan["evict"].as_array().is_some_and(|all| !all.is_empty());
        assert!(by_itself || plan["keep"][0]["reason"] == "use_unknown", "{uid} {capabilities}: {plan}");
        let named = self.run(uid, capabilities, &["evict", Self::MODEL]);
        assert!([Some(0), Some(4)].contains(&named.status.code()), "{named:?}");
        (by_itself, named.status.success())
    }
}

/// The rows of the table in docs/deploy.md: user, capabilities, goes by itself, goes by name.
#[test]
fn who_may_evict_what_is_as_the_document_says() {
    let document = read("docs/deploy.md");
    let cells =
        |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().replace('`', "")).collect() };
    let rows = document.lines().skip_while(|line| !line.starts_with("| runs as |")).skip(2);
    let rows: Vec<Vec<String>> = rows.take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(rows.len() >= 6, "{rows:?}");
    // Only root can be somebody else; everybody else has read the table at least.
    if !is_root() {
        return;
    }
    let shared = Shared::new();
    for row in rows {
        let uid = match row[1].as_str() {
            "the owner" => 2000,
            "another user" => 3000,
            "root" => 0,
            other => panic!("who is {other}?"),
        };
        let capabilities: String = row[2]
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("CAP_"))
            .map(|name| format!(",+{}", name.to_lowercase()))
            .collect();
        let says = (row[3] == "yes", row[4] == "yes");
        assert_eq!(shared.goes(uid, &capabilities), says, "{row:?}");
    }
}
