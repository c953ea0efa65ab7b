//! What makes a way to send: a loop, and how it is made. Knows none of them.

use std::rc::Rc;
use std::time::Duration;

use crate::error::Error;
use crate::job::{Backing, Job, Protocol};
use crate::measure::Tally;
use crate::net::Flow;
use crate::stage::Stage;

/// One way to send, with its flow and whatever else it keeps from run to run.
pub trait Loop {
    /// Sends `job`'s payloads for about `time` and returns when all of them are acknowledged and
    /// their memory is free. What could not be sent is counted as an error.
    ///
    /// # Errors
    /// What ended the run early.
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error>;

    /// The part of the working set on these pages that it uses, and why not all of it; `None` if
    /// all of it.
    fn working_set(&self, _backing: Backing) -> Option<(usize, String)> {
        None
    }
}

/// How a loop is made.
#[derive(Clone, Copy)]
pub struct Recipe {
    /// The method's name.
    pub name: &'static str,
    /// What it can send over.
    pub protocol: Protocol,
    /// The pages it can make something of.
    pub backings: &'static [Backing],
    /// Makes the loop over a new flow with this send buffer set.
    pub make: Make,
}

/// Makes a loop over a flow.
pub type Make = fn(&Rc<Stage>, Flow) -> Result<Box<dyn Loop>, Error>;

/// Both kinds of pages.
pub const ANY_PAGES: &[Backing] = &[Backing::Small, Backing::Huge];
/// What registered memory is best on: huge pages charge the send buffer for the offset in them.
pub const SMALL_PAGES: &[Backing] = &[Backing::Small];
