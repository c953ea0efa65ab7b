//! Many datagrams from one payload: a *train*, which the kernel calls a GSO batch (generic
//! segmentation offload).
//!
//! ```text
//!  payload, 45,000 bytes ──▶ 32 datagrams of 1,400 bytes, and one of 200
//! ```
//!
//! One system call, and one packet's worth of work in the kernel, carry all of them: by far the
//! fastest way to send many datagrams to one address. Each datagram here begins with its number,
//! and the receiver checks that every one came once, and every byte of it.
//!
//! UDP holds no sender back: what the receiver has no room for is lost. So this one sends its next
//! train when the receiver has all of the last one.
//!
//! For your own program: lay out your datagrams one behind the other, each as long as your
//! protocol's packets are (at most the path's MTU less 28 bytes, or 48 over IPv6), let the last one
//! be shorter if need be, and pace trains by your protocol's acknowledgements.

use std::error::Error;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use ringwire::{Copied, Event, Events, Ring, SendOptions};

const DATAGRAM_BYTES: u16 = 1400;
const LAST_BYTES: usize = 200;
const TRAIN_DATAGRAMS: u32 = 33;
const TRAINS: u32 = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = receiver.local_addr()?;
    // Not a pace, but an end for this program if a datagram is lost.
    receiver.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (tell, told) = mpsc::channel();
    let receiver = thread::spawn(move || receive(&receiver, &tell));

    let mut ring = Ring::builder().build()?;
    let sock = ring.attach(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?)?;
    let mut events = Events::new();
    let mut without_copy = 0;
    for train in 0..TRAINS {
        let numbers = train * TRAIN_DATAGRAMS..(train + 1) * TRAIN_DATAGRAMS;
        let payload: Vec<u8> = numbers.flat_map(datagram).collect();
        // Of a socket that is connected leave `to` away.
        let options = SendOptions::new().to(address).train(DATAGRAM_BYTES).tag(train.into());
        ring.send_with(sock, payload, options)?;

        let mut released = false;
        while !released {
            ring.turn(None, &mut events)?;
            for event in events.drain() {
                match event {
                    Event::Released { tag, copied, .. } if tag == u64::from(train) => {
                        without_copy += u32::from(copied == Copied::No);
                        released = true;
                    }
                    Event::Failed { error, .. } => return Err(error.into()),
                    _ => {}
                }
            }
        }
        if told.recv().is_err() {
            break; // The receiver is gone, and says why.
        }
    }
    receiver.join().map_err(|_| "the receiver panicked")??;
    println!("{TRAINS} trains arrived as {} datagrams, every byte right", TRAINS * TRAIN_DATAGRAMS);
    println!("{without_copy} trains went without a copy (over loopback the kernel copies)");
    Ok(())
}

/// The `number`th datagram: the number, and bytes that follow from it.
fn datagram(number: u32) -> Vec<u8> {
    let is_last = number % TRAIN_DATAGRAMS == TRAIN_DATAGRAMS - 1;
    let bytes = if is_last { LAST_BYTES } else { DATAGRAM_BYTES.into() };
    let body = (number as usize..).map(|at| (at % 251) as u8);
    number.to_le_bytes().into_iter().chain(body).take(bytes).collect()
}

/// Counts datagrams and checks them; tells of every train that is complete.
fn receive(socket: &UdpSocket, complete: &Sender<()>) -> Result<(), String> {
    let mut buffer = vec![0; 1 << 16];
    for train in 0..TRAINS {
        let mut missing: Vec<u32> =
            (train * TRAIN_DATAGRAMS..(train + 1) * TRAIN_DATAGRAMS).collect();
        while !missing.is_empty() {
            let bytes = socket
                .recv(&mut buffer)
                .map_err(|why| format!("datagrams {missing:?} did not come: {why}"))?;
            let Some(number) = buffer[..bytes].first_chunk().map(|n| u32::from_le_bytes(*n)) else {
                return Err(format!("a datagram of {bytes} bytes"));
            };
            let Some(at) = missing.iter().position(|&one| one == number) else {
                return Err(format!("datagram {number} was not to come"));
            };
            missing.remove(at);
            if buffer[..bytes] != datagram(number) {
                return Err(format!("datagram {number}, of {bytes} bytes, is wrong"));
            }
        }
        // If nobody listens any more, the sender has failed, and says why.
        let _ = complete.send(());
    }
    Ok(())
}
