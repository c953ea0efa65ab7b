//! What a measurement was made on: everything beside the code that the figures depend on.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::net::Net;
use crate::plan::Plan;

/// The header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// How many of them the host has.
    pub cpus: u32,
    /// The device that payloads left by.
    pub device: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// What memory payloads lay on.
    pub memory: String,
    /// What the send buffers were.
    pub send_buffer: String,
    /// How often the perfect wire's acknowledger looked, in microseconds; 0 spins.
    pub ack_us: u64,
    /// The working set that was asked for.
    pub working_set_bytes: u64,
    /// The commit that the program was built from.
    pub commit: String,
    /// Which part of the runs that count other programs disturbed, of the methods measured side by
    /// side; 0 to 1.
    #[serde(default)]
    pub disturbed_share: f64,
    /// What a reader has to know to read the figures right.
    pub notes: Vec<String>,
}

impl Host {
    /// The header for measurements of `plan` over `net`.
    pub fn new(plan: &Plan, net: &Net) -> Host {
        let mut host = Host::without_wire(plan);
        host.on(net);
        host
    }

    /// The header for measurements of `plan`, as long as there is no wire.
    pub fn without_wire(plan: &Plan) -> Host {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Host {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: processor(&cpuinfo),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count() as u32,
            device: "none".into(),
            mtu: 0,
            memory: "best of 4 KiB pages and huge pages; what is registered, on 4 KiB pages".into(),
            send_buffer: "best of the kernel's own and 64 MiB".into(),
            ack_us: plan.wire.ack_us,
            working_set_bytes: plan.working_set_bytes,
            commit: option_env!("RINGWIRE_COMMIT").unwrap_or("unknown").into(),
            disturbed_share: 0.0,
            notes: Vec::new(),
        }
    }

    /// Takes down the wire; the first one names the device.
    pub fn on(&mut self, net: &Net) {
        if self.mtu == 0 {
            (self.device, self.mtu) = net.device();
            self.send_buffer =
                format!("best of the kernel's own ({}) and 64 MiB", net.own_send_buffers());
        }
    }

    /// Adds what is not noted yet.
    pub fn add_notes(&mut self, notes: Vec<String>) {
        for note in notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

/// The first processor's name in the text of /proc/cpuinfo.
fn processor(cpuinfo: &str) -> String {
    let name = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_string())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_processor_has_a_name() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t: a\n\nmodel name\t: other\n";
        assert_eq!(super::processor(text), "AMD EPYC");
        assert_eq!(super::processor(""), std::env::consts::ARCH);
    }
}
