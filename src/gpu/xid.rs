//! What NVIDIA says is to be done after an Xid: the immediate action of its Xid catalogue, for A100 and newer.
//!
//! Source: NVIDIA, "Analyzing Xid Errors with the Xid Catalog", column "Resolution Bucket (Immediate Action)",
//! <https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>. Two workflows of that column are named by
//! what they come to: Xid 48 asks for a reset of the GPU, Xid 45 only follows others. What the catalogue calls unused
//! is not here, and neither are the codes for which it gives no action.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is to be done after an Xid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "XidClass")]
pub enum Class {
    /// Nothing, by itself.
    Ignore,
    /// The application is to be restarted; it was its fault, or the damage is contained in it.
    RestartApp,
    /// The driver or the firmware is to be updated.
    UpdateSoftware,
    /// The links to other GPUs are to be looked at.
    CheckNvlink,
    /// Power cables and seating are to be looked at.
    CheckMechanics,
    /// The GPU is to be reset.
    ResetGpu,
    /// The virtual machine is to be restarted.
    RestartVm,
    /// The host is to be restarted.
    RestartHost,
    /// The vendor is to be asked.
    ContactSupport,
    /// The catalogue does not say.
    Unknown,
}

impl Class {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::RestartApp => "restart_app",
            Self::UpdateSoftware => "update_software",
            Self::CheckNvlink => "check_nvlink",
            Self::CheckMechanics => "check_mechanics",
            Self::ResetGpu => "reset_gpu",
            Self::RestartVm => "restart_vm",
            Self::RestartHost => "restart_host",
            Self::ContactSupport => "contact_support",
            Self::Unknown => "unknown",
        }
    }

    /// What that says of the host: whether it is degraded; `None` if nobody knows.
    pub const fn degrades(self) -> Option<bool> {
        match self {
            Self::Ignore | Self::RestartApp | Self::UpdateSoftware => Some(false),
            Self::CheckNvlink
            | Self::CheckMechanics
            | Self::ResetGpu
            | Self::RestartVm
            | Self::RestartHost
            | Self::ContactSupport => Some(true),
            Self::Unknown => None,
        }
    }

    /// What to do, as an imperative.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Ignore => "nothing needs to be done",
            Self::RestartApp => {
                "restart the application that used the GPU; run it under compute-sanitizer if it repeats"
            }
            Self::UpdateSoftware => "update the driver and the firmware",
            Self::CheckNvlink => "look at the NVLink connections (nvidia-smi nvlink -e), then reset the GPU",
            Self::CheckMechanics => "look at the GPU's power cables and at its seating",
            Self::ResetGpu => "drain the host and reset the GPU (nvidia-smi --gpu-reset)",
            Self::RestartVm => "restart the virtual machine",
            Self::RestartHost => "drain and restart the host; have the GPU replaced if it repeats",
            Self::ContactSupport => "ask the vendor of the host, with the output of nvidia-bug-report.sh",
            Self::Unknown => "look the number up in NVIDIA's Xid catalogue",
        }
    }
}

/// What NVIDIA says is to be done after the Xid `code`.
pub const fn class(code: u64) -> Class {
    match code {
        37 | 38 | 43..=45 | 63 | 66 | 67 | 92 | 93 | 106 | 107 | 121 | 137 | 141 => Class::Ignore,
        152..=154 | 157 | 160 | 161 => Class::Ignore,
        8 | 11 | 13 | 25 | 31 | 32 | 39..=41 | 60 | 68..=72 | 75..=77 | 80 | 82..=86 | 88 | 89 => {
            Class::RestartApp
        }
        94 | 96..=105 | 126..=135 | 139 => Class::RestartApp,
        78 => Class::UpdateSoftware,
        74 | 144..=150 => Class::CheckNvlink,
        54 => Class::CheckMechanics,
        46 | 48 | 62 | 64 | 95 | 109 | 110 | 119 | 120 | 136 | 140 | 143 | 155 | 156 | 158 => Class::ResetGpu,
        151 => Class::RestartVm,
        79 => Class::RestartHost,
        142 => Class::ContactSupport,
        _ => Class::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_xids_have_their_class() {
        for (codes, expected) in [
            (&[43, 45, 63, 92, 154][..], Class::Ignore),
            (&[13, 31, 32, 68, 94], Class::RestartApp),
            (&[46, 48, 62, 64, 95, 109, 119, 120, 140], Class::ResetGpu),
            (&[79], Class::RestartHost),
            (&[74, 149], Class::CheckNvlink),
            (&[0, 9, 171, 999, u64::MAX], Class::Unknown),
        ] {
            for code in codes {
                assert_eq!(class(*code), expected, "{code}");
            }
        }
    }

    #[test]
    fn an_application_that_fails_does_not_make_its_host_bad() {
        assert_eq!(class(31).degrades(), Some(false));
        assert_eq!(class(79).degrades(), Some(true));
        assert_eq!(class(171).degrades(), None);
    }

    #[test]
    fn words_are_what_serde_writes() {
        for code in 0..200 {
            let class = class(code);
            assert_eq!(serde_json::to_value(class).expect("json"), class.word());
        }
    }
}
