//! An AMD GPU, as far as it can be shown without one: the files in which the kernel describes it, mounted where they
//! belong for one command alone. What Apple's GPUs look like is not tested anywhere.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::process::{Output, run};
use support::{Larder, fs};

use super::places::{GIB, MODEL, hub, with_library};

/// The kernel's files of one GPU with `total` bytes of which `used` are taken, below `root`.
fn kernel(root: &Path, total: u64, used: u64) {
    let device = root.join("class/0000:03:00.0");
    let card = root.join("class/drm/card0");
    std::fs::create_dir_all(&device).expect("folders");
    std::fs::create_dir_all(&card).expect("folders");
    std::os::unix::fs::symlink("../../0000:03:00.0", card.join("device")).expect("a link");
    for (name, text) in [
        ("class", "0x030000".to_owned()),
        ("vendor", "0x1002".to_owned()),
        ("device", "0x744c".to_owned()),
        ("gpu_busy_percent", "37".to_owned()),
        ("mem_info_vram_total", total.to_string()),
        ("mem_info_vram_used", used.to_string()),
    ] {
        std::fs::write(device.join(name), format!("{text}\n")).expect("written");
    }
}

/// Runs larder where those files are the kernel's, and `/dev/kfd` is there; nobody else sees them.
fn beside(larder: &Larder, root: &Path, args: &[&str]) -> Output {
    const SCRIPT: &str = r#"
set -e
root=$1; shift
mkdir -p "$root/dev"
for name in null zero urandom random; do : > "$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"; done
: > "$root/dev/kfd"
mount --bind "$root/class" /sys/class
mount --rbind "$root/dev" /dev
exec "$@"
"#;
    let inner = larder.command(args);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(root).arg(inner.get_program());
    command.args(inner.get_args()).current_dir(larder.root()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(&mut command, Duration::from_secs(60))
}

fn may_unshare() -> bool {
    fs::is_root() && run(Command::new("unshare").args(["--mount", "true"]), Duration::from_secs(5)).code == 0
}

#[test]
fn an_amd_gpu_is_told_by_what_the_kernel_says_of_it() {
    if !may_unshare() {
        println!("skipped: needs root and mount namespaces");
        return;
    }
    let hub = hub();
    let larder = with_library(&hub, "/nowhere/libnvidia-ml.so.1");
    let files = tempfile::tempdir().expect("a folder");
    kernel(files.path(), 24 * GIB, 4 * GIB);
    let ask = |args: &[&str]| beside(&larder, files.path(), args);
    let info = ask(&["info", "--json"]).expect_code(0).json();
    assert_eq!((&info["device"], &info["gpus"]["source"]), (&json!("rocm"), &json!("sysinfo")), "{info}");
    let gpu = &info["gpus"]["devices"][0];
    assert_eq!((&gpu["device"], &gpu["uuid"]), (&json!("rocm"), &json!("PCI-0000:03:00.0")), "{gpu}");
    let memory = json!({"total": 24 * GIB, "used": 4 * GIB, "free": 20 * GIB, "reserved": null,
                        "kind": "dedicated", "source": "sysinfo"});
    assert_eq!((&gpu["memory"], &gpu["utilization"]["gpu"]), (&memory, &json!(0.37)), "{gpu}");
    // What only NVIDIA's driver tells is not known, and nothing of it is guessed.
    for key in ["compute_capability", "temperature_c", "power_w", "ecc", "xid", "processes", "mig"] {
        assert!(gpu[key].is_null(), "{key}: {gpu}");
    }
    assert!(gpu["capabilities"].as_object().is_some_and(|all| all.values().all(Value::is_null)), "{gpu}");
    let person = ask(&["info"]).expect_code(0).stdout;
    assert!(person.contains("GPU 0") && person.contains("20.0 GiB of 24.0 GiB free"), "{person}");
    let fit = ask(&["fit", MODEL, "--local", "--json"]).expect_code(0).json();
    assert_eq!((&fit["verdict"], &fit["budget_bytes"]), (&json!("fits"), &json!(20 * GIB)), "{fit}");
    assert_eq!(fit["target"]["source"], "free_now", "{fit}");
    // Without it the same host has none.
    let plain = larder.run(&["info", "--json"]).expect_code(0).json();
    assert_eq!((&plain["device"], &plain["gpus"]["devices"]), (&json!("cpu"), &json!([])), "{plain}");
}
