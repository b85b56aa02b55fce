"""Reads the fake library through NVIDIA's own Python binding, which is an independent check of its ABI.

    cargo build -p fake-nvml
    python -m venv venv && venv/bin/pip install nvidia-ml-py
    venv/bin/python tests/fake-nvml/check.py target/debug/libfake_nvml.so

Exits non-zero, with what was expected, at the first value that differs.
"""

import json
import os
import sys
import tempfile
import threading
import time

GIB = 1 << 30
UUID = "GPU-00000000-1111-2222-3333-444444444444"
GPU = {
    "name": "NVIDIA H100 80GB HBM3",
    "uuid": UUID,
    "compute_capability": [9, 0],
    "memory": {"total": 80 * GIB, "reserved": GIB, "used": 30 * GIB},
    "utilization": [87, 12],
    "temperature_c": 61,
    "power_mw": 312345,
    "power_limit_mw": 700000,
    "throttle_reasons": 36,
    "ecc": {"corrected_volatile": 1, "uncorrected_volatile": 2, "corrected_aggregate": 3, "uncorrected_aggregate": 4},
    "remapped_rows": {"correctable": 5, "uncorrectable": 6, "pending": True, "failure": False},
    "pcie": [3, 8],
    "pcie_max": [5, 16],
    "mig": {
        "enabled": True,
        "max": 7,
        "instances": [None, {"uuid": "MIG-1", "name": "NVIDIA H100 MIG 1g.10gb", "memory": {"total": 10 * GIB, "reserved": 0, "used": GIB}}],
    },
    "compute_processes": [{"pid": 42, "used": 29 * GIB, "name": "/usr/bin/vllm"}, {"pid": 43}],
    "graphics_processes": [{"pid": 7, "used": 5}],
}
UNIFIED = {"name": "NVIDIA GB10", "uuid": "GPU-1", "compute_capability": [12, 1], "memory": None, "temperature_c": None}
CONFIG = {"driver_version": "580.95.05", "nvml_version": "13.580.95.05", "cuda_version": 13000, "gpus": [GPU, UNIFIED]}


def main():
    library = os.path.abspath(sys.argv[1])
    folder = tempfile.mkdtemp()
    # The binding loads this name; the loader's search path is read when a process starts.
    if os.environ.get("FAKE_NVML_CHECK") is None:
        os.symlink(library, os.path.join(folder, "libnvidia-ml.so.1"))
        env = dict(os.environ, LD_LIBRARY_PATH=folder, FAKE_NVML=os.path.join(folder, "fake.json"), FAKE_NVML_CHECK="1")
        os.execve(sys.executable, [sys.executable, os.path.abspath(__file__), library], env)
    Check(os.environ["FAKE_NVML"]).run()


class Check:
    def __init__(self, path):
        self.path = path
        self.count = 0

    def set(self, **more):
        with open(self.path + ".new", "w") as file:
            json.dump({**CONFIG, **more}, file)
        os.replace(self.path + ".new", self.path)

    def same(self, what, got, expected):
        if got != expected:
            sys.exit(f"{what}: {got!r} instead of {expected!r}")
        self.count += 1
        print(f"{what} = {got!r}")

    def fails(self, what, call, error):
        try:
            got = call()
        except error as raised:
            self.same(what, type(raised).__name__, error.__name__)
            return
        sys.exit(f"{what}: {got!r} instead of an error")

    def run(self):
        import pynvml as n

        self.set()
        n.nvmlInit()
        self.system(n)
        handle = n.nvmlDeviceGetHandleByIndex(0)
        self.device(n, handle)
        self.lists(n, handle)
        self.errors(n, handle)
        self.events(n, handle)
        n.nvmlShutdown()
        self.fails("after shutdown", n.nvmlDeviceGetCount, n.NVMLError_Uninitialized)
        print(f"ok: {self.count} values read through nvidia-ml-py are those of the file")

    def system(self, n):
        self.same("driver", n.nvmlSystemGetDriverVersion(), "580.95.05")
        self.same("nvml", n.nvmlSystemGetNVMLVersion(), "13.580.95.05")
        self.same("cuda", n.nvmlSystemGetCudaDriverVersion_v2(), 13000)
        self.same("count", n.nvmlDeviceGetCount(), 2)
        self.same("process name", n.nvmlSystemGetProcessName(42), "/usr/bin/vllm")
        self.fails("index 2", lambda: n.nvmlDeviceGetHandleByIndex(2), n.NVMLError_InvalidArgument)
        by_uuid = n.nvmlDeviceGetHandleByUUID(UUID)
        self.same("index by uuid", n.nvmlDeviceGetIndex(by_uuid), 0)

    def device(self, n, handle):
        self.same("name", n.nvmlDeviceGetName(handle), GPU["name"])
        self.same("uuid", n.nvmlDeviceGetUUID(handle), UUID)
        self.same("compute capability", tuple(n.nvmlDeviceGetCudaComputeCapability(handle)), (9, 0))
        pci = n.nvmlDeviceGetPciInfo_v3(handle)
        self.same("pci", (pci.busId, pci.bus), ("00000000:01:00.0", 1))
        second = n.nvmlDeviceGetMemoryInfo(handle, version=n.nvmlMemory_v2)
        self.same("memory v2", (second.total, second.reserved, second.free, second.used), (80 * GIB, GIB, 49 * GIB, 30 * GIB))
        first = n.nvmlDeviceGetMemoryInfo(handle)
        self.same("memory v1", (first.total, first.free, first.used), (80 * GIB, 49 * GIB, 31 * GIB))
        rates = n.nvmlDeviceGetUtilizationRates(handle)
        self.same("utilization", (rates.gpu, rates.memory), (87, 12))
        self.same("temperature", n.nvmlDeviceGetTemperature(handle, n.NVML_TEMPERATURE_GPU), 61)
        self.same("power", n.nvmlDeviceGetPowerUsage(handle), 312345)
        self.same("power limit", n.nvmlDeviceGetEnforcedPowerLimit(handle), 700000)
        self.same("throttle reasons", n.nvmlDeviceGetCurrentClocksThrottleReasons(handle), 36)
        self.same("event reasons", n.nvmlDeviceGetCurrentClocksEventReasons(handle), 36)
        self.same("ecc mode", n.nvmlDeviceGetEccMode(handle), [1, 1])
        counts = [n.nvmlDeviceGetTotalEccErrors(handle, kind, counter) for counter in (0, 1) for kind in (0, 1)]
        self.same("ecc", counts, [1, 2, 3, 4])
        self.same("remapped rows", n.nvmlDeviceGetRemappedRows(handle), (5, 6, 1, 0))
        now = (n.nvmlDeviceGetCurrPcieLinkGeneration(handle), n.nvmlDeviceGetCurrPcieLinkWidth(handle))
        most = (n.nvmlDeviceGetMaxPcieLinkGeneration(handle), n.nvmlDeviceGetMaxPcieLinkWidth(handle))
        self.same("pcie", (now, most), ((3, 8), (5, 16)))

    def lists(self, n, handle):
        compute = [(p.pid, p.usedGpuMemory) for p in n.nvmlDeviceGetComputeRunningProcesses_v3(handle)]
        self.same("compute processes", compute, [(42, 29 * GIB), (43, None)])
        compute = [(p.pid, p.usedGpuMemory) for p in n.nvmlDeviceGetComputeRunningProcesses_v2(handle)]
        self.same("compute processes v2", compute, [(42, 29 * GIB), (43, None)])
        graphics = [(p.pid, p.usedGpuMemory) for p in n.nvmlDeviceGetGraphicsRunningProcesses_v3(handle)]
        self.same("graphics processes", graphics, [(7, 5)])
        self.same("mig mode", n.nvmlDeviceGetMigMode(handle), [1, 1])
        self.same("mig most", n.nvmlDeviceGetMaxMigDeviceCount(handle), 7)
        self.fails("mig 0", lambda: n.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0), n.NVMLError_NotFound)
        part = n.nvmlDeviceGetMigDeviceHandleByIndex(handle, 1)
        self.same("mig 1", (n.nvmlDeviceGetUUID(part), n.nvmlDeviceGetName(part)), ("MIG-1", "NVIDIA H100 MIG 1g.10gb"))
        self.same("mig 1 memory", n.nvmlDeviceGetMemoryInfo(part).free, 9 * GIB)
        parent = n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)
        self.same("mig 1 parent", n.nvmlDeviceGetUUID(parent), UUID)

    def errors(self, n, handle):
        unified = n.nvmlDeviceGetHandleByIndex(1)
        self.fails("unified v1", lambda: n.nvmlDeviceGetMemoryInfo(unified), n.NVMLError_NotSupported)
        self.fails("unified v2", lambda: n.nvmlDeviceGetMemoryInfo(unified, version=n.nvmlMemory_v2), n.NVMLError_NotSupported)
        self.fails("wrong version", lambda: n.nvmlDeviceGetMemoryInfo(handle, version=3), n.NVMLError_ArgumentVersionMismatch)
        self.set(gpus=[{**GPU, "lost": True}, UNIFIED])
        self.fails("lost", lambda: n.nvmlDeviceGetTemperature(handle, 0), n.NVMLError_GpuIsLost)
        self.fails("lost handle", lambda: n.nvmlDeviceGetHandleByIndex(0), n.NVMLError_GpuIsLost)
        self.same("count with a lost one", n.nvmlDeviceGetCount(), 2)
        self.set(errors={"nvmlDeviceGetCount_v2": "DRIVER_NOT_LOADED"})
        self.fails("driver", n.nvmlDeviceGetCount, n.NVMLError_DriverNotLoaded)
        self.set(slow_ms={"nvmlDeviceGetCount_v2": 120})
        begun = time.monotonic()
        n.nvmlDeviceGetCount()
        self.same("slow", time.monotonic() - begun >= 0.12, True)
        self.set(hang=["nvmlDeviceGetCount_v2"])
        threading.Timer(0.2, self.set).start()
        begun = time.monotonic()
        n.nvmlDeviceGetCount()
        self.same("hung until the file changed", time.monotonic() - begun >= 0.2, True)

    def events(self, n, handle):
        self.same("event types", n.nvmlDeviceGetSupportedEventTypes(handle), n.nvmlEventTypeXidCriticalError)
        events = n.nvmlEventSetCreate()
        n.nvmlDeviceRegisterEvents(handle, n.nvmlEventTypeXidCriticalError, events)
        self.fails("no event", lambda: n.nvmlEventSetWait_v2(events, 10), n.NVMLError_Timeout)
        self.set(xids=[{"gpu": 0, "code": 79}])
        data = n.nvmlEventSetWait_v2(events, 1000)
        self.same("xid", (data.eventType, data.eventData), (n.nvmlEventTypeXidCriticalError, 79))
        self.same("xid of", n.nvmlDeviceGetUUID(data.device), UUID)
        self.fails("once only", lambda: n.nvmlEventSetWait_v2(events, 10), n.NVMLError_Timeout)
        n.nvmlEventSetFree(events)


main()
