//! What the perfect wire itself lets through: a loop of plain writes, and what its acknowledger
//! used for it.
//!
//! `cargo run --release -p ringwire-wire --example perfect_pace [ack_us] [payload_bytes] [silent]`
//!
//! A third argument of 1: the writer never says what it has written.

use std::io::Write as _;
use std::time::{Duration, Instant};

use ringwire_wire::{Family, Perfect, pin_to_cpu};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<u64> =
        std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let ack_us = arguments.first().copied().unwrap_or(30);
    let payload_bytes = arguments.get(1).copied().unwrap_or(1 << 20) as usize;
    let silent = arguments.get(2) == Some(&1);
    let ack_every = Duration::from_micros(ack_us);
    let wire = Perfect::builder().ack_every(ack_every).acker_cpu(1).build()?;
    pin_to_cpu(0)?;
    let flow = wire.tcp(Family::V4)?;
    flow.stream().set_nodelay(true)?;
    println!("{}, MTU {}", wire.device(), wire.mtu());
    let working_set = vec![7u8; 256 << 20];
    let mut stream = flow.stream();
    for _ in 0..5 {
        let (device, before, started) = (wire.transmitted()?, wire.acker(), Instant::now());
        let mut sent = 0;
        for payload in working_set.chunks_exact(payload_bytes).cycle() {
            stream.write_all(payload)?;
            if !silent {
                flow.written().add(payload_bytes as u64);
            }
            sent += payload_bytes;
            if sent.is_multiple_of(4 << 20) && started.elapsed() > Duration::from_millis(500) {
                break;
            }
        }
        let (seconds, after) = (started.elapsed().as_secs_f64(), wire.acker());
        let packets = wire.transmitted()?.packets - device.packets;
        println!(
            "{:.2} GB/s, {} bytes a packet; acknowledger: {:.0} % of a core, {:.0} % waiting, \
             {} looks/s, {} acks/s, {} fallbacks/s",
            sent as f64 / seconds / 1e9,
            sent as u64 / packets.max(1),
            (after.cpu - before.cpu).as_secs_f64() / seconds * 100.0,
            (after.spin - before.spin).as_secs_f64() / seconds * 100.0,
            ((after.looks - before.looks) as f64 / seconds) as u64,
            ((after.acks - before.acks) as f64 / seconds) as u64,
            ((after.fallbacks - before.fallbacks) as f64 / seconds) as u64,
        );
    }
    Ok(())
}
