//! `larder info`: this host's hardware, what was measured of it, and whether it is fit for work.

use larder_jobs::Size;

use super::client::Client;
use super::output::{Output, at};
use super::{FAILED, OK};
use crate::config::Settings;
use crate::error::Result;
use crate::gpu::snapshot::{Memory, MigInstance};
use crate::gpu::{Gpu, State};
use crate::scout::HostView;

pub(super) async fn run(settings: Settings, output: &Output) -> Result<u8> {
    let view = Client::larder_or_here(settings).await?.host().await?;
    output.print(&view, || human(&view, *output))?;
    Ok(if view.health.state == State::Degraded { FAILED } else { OK })
}

fn human(view: &HostView, output: Output) -> String {
    let mut lines = Vec::new();
    let mut line = |what: &str, text: String| lines.push(format!("{what:<10}{text}"));
    let unknown = || "unknown".to_owned();
    let size = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| output.size(bytes));
    line("host", format!("{}, larder {}", view.name, view.version));
    let facts = &view.facts;
    line(
        "system",
        format!("{}, {} {}", facts.os.clone().unwrap_or_else(unknown), facts.kernel, facts.architecture),
    );
    let cpu = &facts.cpu;
    line(
        "processor",
        format!(
            "{}, {} cores, {} for this process",
            cpu.brand.clone().unwrap_or_else(unknown),
            cpu.physical_cores.map_or_else(unknown, |cores| cores.to_string()),
            cpu.available.map_or_else(unknown, |cores| format!("{cores:.1}")),
        ),
    );
    let memory = &facts.memory;
    let limit = memory.cgroup_limit.map(|limit| format!(", limited to {}", output.size(limit)));
    line(
        "memory",
        format!(
            "{}, {} free for this process{}",
            size(memory.total),
            size(memory.effective_available),
            limit.unwrap_or_default()
        ),
    );
    for disk in &facts.disks {
        let place = disk.mountpoint.as_ref().map_or_else(unknown, |path| path.display().to_string());
        let read_only = if disk.read_only == Some(true) { ", read-only" } else { "" };
        let kind = disk.filesystem.clone().unwrap_or_else(unknown);
        line("disk", format!("{} on {place} ({kind}{read_only})", disk.path.display()));
    }
    let gpus = &view.gpus;
    if let (Some(driver), Some(cuda)) = (&gpus.driver_version, &gpus.cuda_version) {
        line("driver", format!("{driver}, CUDA {cuda}"));
    }
    for gpu in &gpus.devices {
        line(&format!("GPU {}", gpu.index), device(gpu, output));
        let divided = gpu.mig.as_ref().filter(|mig| mig.enabled && !gpu.lost);
        for part in divided.iter().flat_map(|mig| &mig.instances) {
            line("", instance(part, output));
        }
    }
    if let Some(why) = gpus.why_none.as_ref().filter(|_| gpus.devices.is_empty()) {
        line("GPU", format!("none: {}; {}", why.what, why.hint));
    }
    if gpus.stale {
        line("", format!("the GPUs have not been read since {}", at(gpus.taken_at)));
    }
    line("measured", measured(view));
    line("health", view.health.state.word().to_owned());
    for reason in &view.health.reasons {
        line("", format!("{}: {}; {}", reason.subject, reason.what, reason.hint));
    }
    lines.join("\n")
}

fn device(gpu: &Gpu, output: Output) -> String {
    let name = gpu.name.clone().unwrap_or_else(|| "unknown".into());
    if gpu.lost {
        return format!("{name}: lost");
    }
    let mut parts = vec![name];
    parts.extend(gpu.compute_capability.map(|of| format!("compute capability {of}")));
    parts.extend(free(&gpu.memory, output));
    if let Some(mig) = gpu.mig.as_ref().filter(|mig| mig.enabled) {
        parts.push(format!("divided into {} parts (MIG)", mig.instances.len()));
    }
    parts.extend(gpu.utilization.gpu.map(|share| format!("{:.0} % busy", share * 100.0)));
    parts.extend(gpu.temperature_c.map(|degrees| format!("{degrees} °C")));
    if let (Some(now), Some(limit)) = (gpu.power_w, gpu.power_limit_w) {
        parts.push(format!("{now:.0} of {limit:.0} W"));
    }
    parts.join(", ")
}

/// A part of a divided GPU: what a model can be given there.
fn instance(part: &MigInstance, output: Output) -> String {
    let name = part.name.clone().or_else(|| part.uuid.clone());
    let name = name.unwrap_or_else(|| format!("part {}", part.index));
    [Some(name), free(&part.memory, output)].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn free(memory: &Memory, output: Output) -> Option<String> {
    let (total, free) = (memory.total?, memory.free?);
    Some(format!("{} of {} free", output.size(free), output.size(total)))
}

fn measured(view: &HostView) -> String {
    let Some(rates) = &view.measured else {
        return "nothing yet: larder profile".into();
    };
    let rate = |what: &str, rate: Option<f64>| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // a rate is positive and below 2^63
        rate.map(|rate| format!("{what} {}/s", Size(rate as u64)))
    };
    let parts = [
        rate("disk reads", rate_of(rates.disk_read_cold)),
        rate("from memory", rate_of(rates.disk_read_warm)),
        rate("writes", rate_of(rates.disk_write)),
        rate("memory copies", rate_of(rates.memory_copy)),
        rates.hub_round_trip.map(|seconds| format!("the hub answers in {:.0} ms", seconds * 1e3)),
        rate("downloads bring", view.fetched_bytes_per_second),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{} ({})", parts.join(", "), at(rates.at))
}

/// A rate that can be shown.
fn rate_of(rate: Option<f64>) -> Option<f64> {
    rate.filter(|rate| rate.is_finite() && *rate >= 0.0)
}
