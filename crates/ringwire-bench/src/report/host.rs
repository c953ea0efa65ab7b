//! What a measurement was made on: everything beside the code that the figures depend on.

use serde::{Deserialize, Serialize};

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
    /// Which part of the runs that count other programs disturbed, of methods side by side and of
    /// how cost grows; 0 to 1.
    #[serde(default)]
    pub disturbed_share: f64,
    /// What a reader has to know to read the figures right.
    pub notes: Vec<String>,
}

impl Host {
    /// Adds what is not noted yet.
    pub fn add_notes(&mut self, notes: Vec<String>) {
        for note in notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }
}
