//! `ringwire doctor`: flags become a question, `ringwire-doctor` looks and judges, this shows it.
//!
//! Must not know what is looked at. stdout carries the report, as text or as JSON.

use ringwire_doctor::{Asked, Framing, examine, judge};

use crate::args::Doctor;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::protocol::{self, Role};

/// What a receiver is sent unless it is said how much: enough to see what the path does.
const PROBE_BYTES: u64 = 16 << 20;

/// Looks, and says what it found.
pub(crate) fn run(args: &Doctor, output: &Output) -> Result<Exit, Failure> {
    let asked = args.to.as_ref().map(|to| Asked {
        host: to.host.clone(),
        port: to.port,
        shown: to.shown.clone(),
        probe_bytes: args.probe_bytes,
        framing: Framing {
            receiver_greets: protocol::greeting(Role::Receiver).into(),
            probe_greets: protocol::greeting(Role::Prober).into(),
            bytes: PROBE_BYTES,
        },
    });
    let facts = examine(asked.as_ref()).map_err(|no_address| {
        Failure::new(no_address).hint("check the name; an address in numbers needs no resolving")
    })?;
    let report = judge(&facts);
    match args.json {
        // As text, fields are in the order that is promised.
        true => output.result(serde_json::to_string_pretty(&report).map_err(Failure::new)?),
        false => report.lines().iter().for_each(|line| output.result(line)),
    }
    Ok(match report.is_usable() {
        true => Exit::Yes,
        false => Exit::No,
    })
}
