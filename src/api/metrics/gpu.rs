//! What `/metrics` says of the GPUs and of the host's fitness, from the last snapshot: what is unknown is absent, and
//! what changes from moment to moment is absent while the snapshot is stale.

use std::fmt::Display;

use jiff::Timestamp;

use super::Page;
use crate::gpu::health::State;
use crate::gpu::snapshot::Throttle;
use crate::gpu::{Gpu, Gpus, Health, Source};

/// The families of the GPUs and of the host's health.
pub(super) fn render(page: &mut Page<'_>, gpus: &Gpus, health: &Health, now: Timestamp) {
    host(page, gpus, health, now);
    info(page, gpus);
    if !gpus.stale {
        moving(page, gpus);
        throttled(page, gpus);
    }
    standing(page, gpus);
    memory_errors(page, gpus);
    xids(page, gpus);
}

/// The label of a GPU: its UUID, or its index if it has never told that.
fn uuid(gpu: &Gpu) -> String {
    gpu.uuid.clone().unwrap_or_else(|| format!("unknown:{}", gpu.index))
}

/// One family with one sample for each GPU of which the value is known.
fn each<V: Display>(
    page: &mut Page<'_>,
    gpus: &Gpus,
    name: &str,
    help: &str,
    value: impl Fn(&Gpu) -> Option<V>,
) {
    let known: Vec<_> = gpus.devices.iter().filter_map(|gpu| Some((uuid(gpu), value(gpu)?))).collect();
    if known.is_empty() {
        return;
    }
    let mut family = page.gauge(name, help);
    for (uuid, value) in known {
        family.sample(&[("uuid", &uuid)], value);
    }
}

fn host(page: &mut Page<'_>, gpus: &Gpus, health: &Health, now: Timestamp) {
    let verdict = match health.state {
        State::Healthy => Some(1),
        State::Degraded => Some(0),
        State::Unknown => None,
    };
    if let Some(verdict) = verdict {
        let help = "Whether nothing is known to be wrong with the GPUs and the cache's disk.";
        page.gauge("larder_host_healthy", help).sample(&[], verdict);
    }
    if !health.reasons.is_empty() {
        let help = "How many GPUs or drives give that reason for the host not to be healthy.";
        let mut family = page.gauge("larder_host_health_reasons", help);
        for word in crate::gpu::health::Word::ALL {
            let count = health.reasons.iter().filter(|reason| reason.word == *word).count();
            if count > 0 {
                family.sample(&[("reason", word.word())], count);
            }
        }
    }
    if gpus.source != Source::None {
        let age = now.duration_since(gpus.taken_at).as_secs_f64().max(0.0);
        page.gauge("larder_gpus_snapshot_age_seconds", "Since the GPUs were read last.").sample(&[], age);
    }
}

fn info(page: &mut Page<'_>, gpus: &Gpus) {
    if gpus.devices.is_empty() {
        return;
    }
    let mut family = page.gauge("larder_gpu_info", "Always 1; one series for each GPU.");
    for gpu in &gpus.devices {
        let capability = gpu.compute_capability.map(|capability| capability.to_string()).unwrap_or_default();
        let labels = [
            ("uuid", uuid(gpu)),
            ("index", gpu.index.to_string()),
            ("name", gpu.name.clone().unwrap_or_default()),
            ("compute_capability", capability),
            ("driver", gpus.driver_version.clone().unwrap_or_default()),
        ];
        family.sample(&labels.each_ref().map(|(name, value)| (*name, value.as_str())), 1);
    }
}

/// What is true for the moment.
fn moving(page: &mut Page<'_>, gpus: &Gpus) {
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&Gpu) -> Option<f64>| {
        each(page, gpus, name, help, value);
    };
    gauge("larder_gpu_utilization_ratio", "Share of the time in which a kernel ran.", &|gpu| {
        gpu.utilization.gpu
    });
    let help = "Share of the time in which the GPU's memory was read or written.";
    gauge("larder_gpu_memory_utilization_ratio", help, &|gpu| gpu.utilization.memory);
    gauge("larder_gpu_temperature_celsius", "Temperature of the GPU.", &|gpu| {
        gpu.temperature_c.map(f64::from)
    });
    gauge("larder_gpu_power_watts", "Power that the GPU takes.", &|gpu| gpu.power_w);
    let help = "Bytes of the GPU's memory that somebody has.";
    each(page, gpus, "larder_gpu_memory_used_bytes", help, |gpu| gpu.memory.used);
    let help = "Bytes of the GPU's memory that anybody could have.";
    each(page, gpus, "larder_gpu_memory_free_bytes", help, |gpu| gpu.memory.free);
    let help = "Processes on the GPU that this larder can see.";
    each(page, gpus, "larder_gpu_processes", help, |gpu| {
        gpu.processes.as_ref().map(|seen| seen.len() + gpu.processes_omitted)
    });
    let help = "PCI Express generation of the link now; an idle GPU lowers it.";
    each(page, gpus, "larder_gpu_pcie_link_generation", help, |gpu| gpu.pcie.generation);
    let help = "PCI Express lanes of the link now.";
    each(page, gpus, "larder_gpu_pcie_link_width", help, |gpu| gpu.pcie.width);
}

/// What stays until somebody acts.
fn standing(page: &mut Page<'_>, gpus: &Gpus) {
    each(page, gpus, "larder_gpu_lost", "Whether the GPU is out of reach.", |gpu| Some(u8::from(gpu.lost)));
    let help = "Whether nothing is known to be wrong with the GPU.";
    each(page, gpus, "larder_gpu_healthy", help, |gpu| match gpu.health.state {
        State::Healthy => Some(1),
        State::Degraded => Some(0),
        State::Unknown => None,
    });
    let help = "Bytes of memory that the GPU has.";
    each(page, gpus, "larder_gpu_memory_total_bytes", help, |gpu| gpu.memory.total);
    let help = "Bytes of the GPU's memory that the driver keeps for itself.";
    each(page, gpus, "larder_gpu_memory_reserved_bytes", help, |gpu| gpu.memory.reserved);
    let help = "Power that the GPU may take.";
    each(page, gpus, "larder_gpu_power_limit_watts", help, |gpu| gpu.power_limit_w);
    let help = "The highest PCI Express generation that GPU and host have in common.";
    each(page, gpus, "larder_gpu_pcie_link_generation_max", help, |gpu| gpu.pcie.max_generation);
    let help = "The most PCI Express lanes that GPU and slot have in common.";
    each(page, gpus, "larder_gpu_pcie_link_width_max", help, |gpu| gpu.pcie.max_width);
}

fn throttled(page: &mut Page<'_>, gpus: &Gpus) {
    let known: Vec<_> =
        gpus.devices.iter().filter_map(|gpu| Some((uuid(gpu), gpu.throttle_reasons.as_ref()?))).collect();
    if known.is_empty() {
        return;
    }
    let mut family = page.gauge("larder_gpu_throttled", "Whether that lowers the GPU's clocks.");
    for (uuid, reasons) in known {
        for reason in Throttle::ALL {
            let labels = [("uuid", uuid.as_str()), ("reason", reason.word())];
            family.sample(&labels, u8::from(reasons.contains(reason)));
        }
    }
}

fn memory_errors(page: &mut Page<'_>, gpus: &Gpus) {
    let mut errors = Vec::new();
    for gpu in &gpus.devices {
        let Some(ecc) = gpu.ecc else { continue };
        for (counter, counts) in [("volatile", ecc.volatile), ("aggregate", ecc.aggregate)] {
            for (kind, count) in [("corrected", counts.corrected), ("uncorrected", counts.uncorrected)] {
                errors.extend(count.map(|count| (uuid(gpu), kind, counter, count)));
            }
        }
    }
    if !errors.is_empty() {
        let help = "Memory errors since the driver was loaded (volatile) and in the GPU's life (aggregate).";
        let mut family = page.gauge("larder_gpu_ecc_errors", help);
        for (uuid, kind, counter, count) in errors {
            family.sample(&[("uuid", &uuid), ("kind", kind), ("counter", counter)], count);
        }
    }
    let rows: Vec<_> = gpus.devices.iter().filter_map(|gpu| Some((uuid(gpu), gpu.remapped_rows?))).collect();
    if rows.is_empty() {
        return;
    }
    let help = "Rows of the memory that spare ones stand in for.";
    let mut family = page.gauge("larder_gpu_remapped_rows", help);
    for (uuid, rows) in &rows {
        family.sample(&[("uuid", uuid), ("kind", "correctable")], rows.correctable);
        family.sample(&[("uuid", uuid), ("kind", "uncorrectable")], rows.uncorrectable);
    }
    let help = "Whether a row of the memory waits for a reset to be replaced.";
    let mut family = page.gauge("larder_gpu_row_remap_pending", help);
    for (uuid, rows) in &rows {
        family.sample(&[("uuid", uuid)], u8::from(rows.pending));
    }
    let help = "Whether a row of the memory could not be replaced.";
    let mut family = page.gauge("larder_gpu_row_remap_failed", help);
    for (uuid, rows) in &rows {
        family.sample(&[("uuid", uuid)], u8::from(rows.failure));
    }
}

fn xids(page: &mut Page<'_>, gpus: &Gpus) {
    let events: Vec<_> = gpus
        .devices
        .iter()
        .flat_map(|gpu| gpu.xid.iter().flat_map(|xids| &xids.last).map(|event| (uuid(gpu), event)))
        .collect();
    if events.is_empty() {
        return;
    }
    let help = "When the driver last reported that Xid.";
    let mut family = page.gauge("larder_gpu_xid_last_timestamp_seconds", help);
    for (uuid, event) in events {
        let (code, at) = (event.code.to_string(), event.at.as_duration().as_secs_f64());
        family.sample(&[("uuid", &uuid), ("xid", &code)], at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::snapshot::{DeviceKind, Memory, Missing, RemappedRows, Utilization, WhyNone, Xids};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn gpus(devices: Vec<Gpu>) -> Gpus {
        let why = WhyNone { word: Missing::NoLibrary, what: "no".into(), hint: "no".into() };
        let source = if devices.is_empty() { Source::None } else { Source::Nvml };
        Gpus { source, devices, driver_version: Some("580.95.05".into()), ..Gpus::none(why, at(100)) }
    }

    fn text(gpus: &Gpus, state: State) -> String {
        let mut text = String::new();
        let health = Health { state, reasons: Vec::new() };
        render(&mut Page { text: &mut text }, gpus, &health, at(107));
        text
    }

    fn gpu() -> Gpu {
        let mut xids = Xids::since(at(1));
        xids.push(79, at(55));
        Gpu {
            uuid: Some("GPU-1".into()),
            name: Some("NVIDIA \"H100\"".into()),
            memory: Memory { total: Some(85_899_345_920), used: Some(5), ..Memory::default() },
            utilization: Utilization { gpu: Some(0.25), memory: None },
            throttle_reasons: Some(vec![Throttle::HwThermalSlowdown]),
            processes: Some(Vec::new()),
            processes_omitted: 3,
            remapped_rows: Some(RemappedRows {
                correctable: 0,
                uncorrectable: 2,
                pending: true,
                failure: false,
            }),
            xid: Some(xids),
            ..Gpu::unknown(0, DeviceKind::Cuda)
        }
    }

    #[test]
    fn what_is_known_is_there_and_what_is_not_is_absent() {
        let text = text(&gpus(vec![gpu()]), State::Degraded);
        for line in [
            concat!(
                "larder_gpu_info{uuid=\"GPU-1\",index=\"0\",name=\"NVIDIA \\\"H100\\\"\",",
                "compute_capability=\"\",driver=\"580.95.05\"} 1"
            ),
            "larder_gpu_memory_total_bytes{uuid=\"GPU-1\"} 85899345920",
            "larder_gpu_memory_used_bytes{uuid=\"GPU-1\"} 5",
            "larder_gpu_processes{uuid=\"GPU-1\"} 3",
            "larder_gpu_utilization_ratio{uuid=\"GPU-1\"} 0.25",
            "larder_gpu_throttled{uuid=\"GPU-1\",reason=\"hw_thermal_slowdown\"} 1",
            "larder_gpu_throttled{uuid=\"GPU-1\",reason=\"idle\"} 0",
            "larder_gpu_remapped_rows{uuid=\"GPU-1\",kind=\"uncorrectable\"} 2",
            "larder_gpu_row_remap_pending{uuid=\"GPU-1\"} 1",
            "larder_gpu_xid_last_timestamp_seconds{uuid=\"GPU-1\",xid=\"79\"} 55",
            "larder_gpu_lost{uuid=\"GPU-1\"} 0",
            "larder_host_healthy 0",
            "larder_gpus_snapshot_age_seconds 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for absent in
            ["memory_free", "temperature", "_watts", "ecc", "pcie", "gpu_healthy", "memory_utilization"]
        {
            assert!(!text.contains(absent), "{absent}\n{text}");
        }
    }

    #[test]
    fn a_stale_snapshot_shows_nothing_that_moves() {
        let stale = Gpus { stale: true, ..gpus(vec![gpu()]) };
        let text = text(&stale, State::Unknown);
        for absent in ["used_bytes", "utilization", "throttled", "larder_host_healthy"] {
            assert!(!text.contains(absent), "{absent}\n{text}");
        }
        assert!(text.contains("larder_gpu_memory_total_bytes") && text.contains("snapshot_age"), "{text}");
    }

    #[test]
    fn a_host_without_a_gpu_has_only_its_verdict() {
        let text = text(&gpus(Vec::new()), State::Healthy);
        assert_eq!(
            text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(),
            ["larder_host_healthy 1"]
        );
    }
}
