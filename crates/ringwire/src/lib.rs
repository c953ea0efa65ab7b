//! Zero-copy network send on io_uring: bytes go from your memory to the wire, and you are told
//! when that memory is yours again.
//!
//! ```text
//!  Arena ──alloc──▶ BlockMut ──freeze──▶ Block ──┐
//!  Bytes, Vec<u8>, Arc<[u8]>, &'static [u8] … ───┤ 1 send
//!                                                ▼
//!                    the machine (ringwire-core)
//!                       2 policy     copy, or not, and why
//!                       3 arena      the block is lent         ringwire-arena
//!                       4 ledger     an entry owns it
//!                       5 queue      payloads gather ─▶ a request ─▶ engine ─▶ kernel
//!                       6 completions are decoded ◀────── ringwire-sys ◀──────────┘
//!                       7 ledger     the last part is let go
//!                                                │
//!  Event::Sent, Event::Released{payload} ◀───────┘ 8
//! ```
//!
//! Start with [`Ring`]; memory worth registering comes from an [`Arena`]; many sends are collected
//! under one notification with a [`Notifier`]. This crate is glue: it asks the machine what is to
//! be done, has the system do it, and says what came of it.
//!
//! ```
//! use std::net::{TcpListener, TcpStream};
//! use ringwire::{Arena, Event, Events, Ring};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let arena = Arena::builder().capacity_bytes(1 << 20).build()?;
//! let mut ring = Ring::builder().arena(&arena).build()?;
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let sock = ring.attach(TcpStream::connect(listener.local_addr()?)?)?;
//! # let peer = std::thread::spawn(move || {
//! #     let mut received = Vec::new();
//! #     std::io::Read::read_to_end(&mut listener.accept()?.0, &mut received)?;
//! #     std::io::Result::Ok(received)
//! # });
//!
//! let mut block = arena.alloc(65_536)?;
//! block.put(&[7; 65_536]);
//! let id = ring.send(sock, block.freeze())?; // queued
//!
//! let mut events = Events::new();
//! let mut released = false;
//! while !released {
//!     ring.turn(None, &mut events)?; // lets it leave, and waits until something happens
//!     for event in events.drain() {
//!         match event {
//!             Event::Released { id: which, payload, copied, .. } if which == id => {
//!                 assert_eq!(payload.len(), 65_536); // the memory is ours again
//!                 println!("copied: {copied:?}"); // over loopback always
//!                 released = true;
//!             }
//!             Event::Failed { error, .. } => return Err(error.into()),
//!             _ => {} // `Sent`: the kernel has accepted it, and may still read it
//!         }
//!     }
//! }
//! # ring.close(sock)?;
//! # ring.turn(None, &mut events)?;
//! # assert_eq!(peer.join().expect("a peer")?, [7; 65_536]);
//! # Ok(())
//! # }
//! ```
//!
//! Programs to begin with, each of which runs over loopback and checks itself (`cargo run -p
//! ringwire --example NAME`):
//!
//! | example | what it shows |
//! |---|---|
//! | `fan_out` | one block sent to many connections, and one event when it is free |
//! | `mio_loop` | a server on an event loop: [`Ring::turn`] beside mio, and back-pressure |
//! | `notification_slots` | payloads of all kinds under two notifiers, two events |
//! | `own_thread` | a ring on its own thread, for senders on many: channels and a [`Waker`] |
//! | `tokio_local` | a ring among the tasks of a tokio thread, which await their memory |
//! | `udp_gso` | trains of datagrams ([`SendOptions::train`]), paced by their receiver |

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "ringwire needs Linux: zero-copy send is made of io_uring, which no other system has"
);

mod arena;
mod builder;
mod inner;
mod ring;
mod segments;
mod select;
mod shared;
mod vouch;

#[doc(inline)]
pub use arena::{Arena, ArenaBuilder, ArenaStats, Block, BlockMut, Registration};
pub use builder::RingBuilder;
pub use ring::Ring;
#[doc(inline)]
pub use ringwire_core::{
    Copied, CopiedBytes, Drain, EngineChoice, Errno, Error, Event, Events, Force, IntoPayload,
    Leaked, Limits, Notifier, OnDeadline, OnStall, Payload, PayloadId, Piece, Reason, Report,
    Route, SendError, SendOptions, Socket, SocketStats, Stats, TaskRun, Thresholds, Turned, leaked,
};
#[doc(inline)]
pub use ringwire_sys::{EngineKind, Waker};
pub use shared::SharedRing;
