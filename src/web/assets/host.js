// The host: whether it is fit for work and why not, and what it has.

import { byId, el, keyed, say, show, terms, time } from "./dom.js";
import { bytes, bytesOf, count, counted, known, rate, sentence } from "./format.js";
import { setGpus } from "./gpus.js";
import { setOwnHost } from "./jobs.js";
import { ask } from "./net.js";

let host = null;
let limits = null;

export async function askHost() {
  [host, limits] = await Promise.all([ask("/v1/host"), ask("/v1/limits")]);
  setGpus(host.gpus);
  setOwnHost(host.name);
  draw();
}

export function hostInShort() {
  return host;
}

/** What a drive tells of its wear. */
function drive(one) {
  const wear = known(one.wear?.percentage_used) ? `, ${one.wear.percentage_used} % of its endurance used` : "";
  return `${one.model ?? "a drive of an unknown model"} (${one.device}${wear})`;
}

function disks() {
  return host.disks.flatMap((disk) => {
    const flags = [disk.filesystem, disk.read_only ? "read-only" : null, disk.in_memory ? "in memory" : null];
    const what = [disk.source, ...flags].filter(known).join(", ");
    return [
      ["Cache", disk.path],
      ["Its filesystem", what === "" ? null : what],
      disk.nvme.length > 0 ? ["Drives", disk.nvme.map(drive).join("; ")] : null,
    ];
  });
}

function speeds() {
  const measured = host.measured;
  if (!known(measured)) return [["Measured", "not yet; larder profile does it"]];
  const each = [
    ["writes", measured.disk_write],
    ["reads", measured.disk_read_cold_parallel ?? measured.disk_read_cold],
  ].filter(([, value]) => known(value));
  return [
    ["Disk, measured", each.length > 0 ? each.map(([what, value]) => `${what} ${rate(value)}`).join(", ") : null],
    ["Measured", time(measured.at)],
  ];
}

function draw() {
  const { cpu, memory, gpus } = host;
  const cores = known(cpu.physical_cores) ? `, ${counted(cpu.physical_cores, "core")}` : "";
  const taken = known(memory.total) && known(memory.available) ? memory.total - memory.available : null;
  const driver = [gpus.driver_version, known(gpus.cuda_version) ? `CUDA ${gpus.cuda_version}` : null].filter(known);
  const running = (limits?.jobs ?? []).filter((job) => known(job.bandwidth)).length;
  const limit = known(limits?.bandwidth) ? rate(limits.bandwidth) : "none";
  terms(byId("host-terms"), [
    ["System", [host.os, host.kernel, host.architecture].filter(known).join(", ")],
    ["Processor", known(cpu.brand) || known(cpu.logical_cores) ? `${cpu.brand ?? "unknown"}${cores}` : null],
    known(cpu.available) ? ["Of it for larder", `${count(cpu.available)} threads`] : null,
    ["Memory", known(memory.total) ? `${bytesOf(taken, memory.total)} used` : null],
    known(memory.cgroup_limit) ? ["Memory limit", bytesOf(memory.cgroup_used, memory.cgroup_limit)] : null,
    gpus.devices.length > 0 ? ["GPU driver", driver.length > 0 ? driver.join(", ") : null] : null,
    ...disks(),
    ...speeds(),
    ["Downloads bring", known(host.fetched_bytes_per_second) ? rate(host.fetched_bytes_per_second) : "not measured yet"],
    ["Bandwidth limit", running > 0 ? `${limit}; ${counted(running, "job")} with one of its own` : limit],
  ]);
  const line = () => {
    const [what, hint, word] = [el("span"), el("span", { class: "muted" }), el("b")];
    return { root: el("li", {}, word, what, hint), what, hint, word };
  };
  keyed(byId("host-reasons"), host.health.reasons, (one) => `${one.word} ${one.subject}`, line, (drawn, one) => {
    say(drawn.word, `${one.subject}: `);
    say(drawn.what, `${sentence(one.what)} `);
    say(drawn.hint, sentence(one.hint));
  });
  const fine = {
    healthy: "Nothing is known to be wrong.",
    degraded: "This host is not fit for all of its work:",
    unknown: "Whether this host is fit cannot be told:",
  }[host.health.state];
  say(byId("host-verdict"), fine ?? "");
  show(byId("host-reasons"), host.health.reasons.length > 0);
}
