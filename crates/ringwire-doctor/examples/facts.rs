//! Writes down what `ringwire doctor` sees here, as JSON, for tests that judge it elsewhere.
//!
//! `cargo run -p ringwire-doctor --example facts [HOST:PORT]`. With a destination it connects to it
//! and sends nothing.

use ringwire_doctor::{Asked, Framing, examine};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let to = std::env::args().nth(1);
    let asked = to.as_deref().and_then(|to| to.rsplit_once(':')).map(|(host, port)| {
        Ok::<_, std::num::ParseIntError>(Asked {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.parse()?,
            shown: format!("{host}:{port}"),
            probe_bytes: None,
            // Nobody greets like this, so nobody is sent anything.
            framing: Framing { receiver_greets: vec![0], probe_greets: Vec::new(), bytes: 0 },
        })
    });
    let facts = examine(asked.transpose()?.as_ref())?;
    println!("{}", serde_json::to_string_pretty(&facts)?);
    Ok(())
}
