//! Writes down what `ringwire doctor` sees here, as JSON, for tests that judge it elsewhere.
//!
//! `cargo run -p ringwire-doctor --example facts [HOST:PORT]`. With a destination it connects to it
//! and sends nothing.

use ringwire_doctor::{Asked, Framing, examine};
use ringwire_reach::Target;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let asked = match std::env::args().nth(1) {
        None => None,
        Some(to) => Some(Asked {
            target: Target::to_connect(&to, 27_474)?,
            probe_bytes: None,
            // Nobody is a receiver, so nobody is sent anything.
            framing: Framing {
                hear: |_| None,
                greeting_bytes: 1,
                probe_greets: Vec::new(),
                bytes: 0,
            },
        }),
    };
    let facts = examine(asked.as_ref())?;
    println!("{}", serde_json::to_string_pretty(&facts)?);
    Ok(())
}
