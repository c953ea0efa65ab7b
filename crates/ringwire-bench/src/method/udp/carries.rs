//! Datagrams one by one, or in trains.

use crate::error::Error;
use crate::job::Job;
use crate::net::Flow;
use crate::sys;
use crate::walk::Layout;

/// What a send carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    Datagram,
    /// As many as the kernel takes at once.
    Train,
}

impl Carries {
    /// How what it carries lies in memory.
    pub(super) fn layout(self, job: &Job) -> Layout {
        match self {
            Carries::Datagram => Layout::of(job),
            Carries::Train => Layout::of_trains(job),
        }
    }

    /// Has the kernel cut what is sent on `flow`, if it carries trains.
    pub(super) fn set_up(self, flow: &Flow, job: &Job) -> Result<(), Error> {
        match self {
            Carries::Datagram => Ok(()),
            Carries::Train => sys::set_segment(flow, job.payload_bytes)
                .map_err(|error| Error::io("UDP_SEGMENT", error)),
        }
    }
}
