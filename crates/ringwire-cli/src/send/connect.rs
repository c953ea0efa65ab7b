//! Connecting to every receiver, all at once, and greeting it.
//!
//! Either all of them answer as receivers of this version, or nothing is sent and the error names
//! each that did not: a transfer to fewer than were asked for should be asked for.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::args::Endpoint;
use crate::exit::Failure;
use crate::protocol::{self, GREETING_BYTES, Role};
use crate::signals::Signals;
use crate::units::show_duration;

/// How soon a signal is seen while connecting.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A receiver that has greeted.
pub(super) struct Connected {
    pub(super) shown: String,
    pub(super) stream: TcpStream,
    address: SocketAddr,
}

/// Connects to all of `receivers`, each within `patience`.
pub(super) fn connect_all(
    receivers: &[Endpoint],
    patience: Duration,
    signals: &Signals,
) -> Result<Vec<Connected>, Failure> {
    let (answers, answered) = mpsc::channel();
    for (index, receiver) in receivers.iter().enumerate() {
        let (receiver, answers) = (receiver.clone(), answers.clone());
        // Not waited for when a signal comes: resolving a name cannot be cut short.
        std::thread::spawn(move || answers.send((index, connect(&receiver, patience))));
    }
    let mut connected: Vec<_> = receivers.iter().map(|_| None).collect();
    let mut failed = Vec::new();
    for _ in receivers {
        let (index, answer) = loop {
            match answered.recv_timeout(LOOK_EVERY) {
                Ok(answer) => break answer,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    if let Some(signal) = signals.seen() {
                        return Err(Failure::new(format!(
                            "told to exit by {signal}; nothing was sent"
                        )));
                    }
                }
            }
        };
        match answer {
            Ok(receiver) => connected[index] = Some(receiver),
            Err(failure) => failed.push((index, failure)),
        }
    }
    failed.sort_by_key(|(index, _)| *index);
    judge(connected.into_iter().flatten().collect(), failed.into_iter().map(|(_, why)| why))
}

fn judge(
    connected: Vec<Connected>,
    failed: impl Iterator<Item = Missing>,
) -> Result<Vec<Connected>, Failure> {
    let failed: Vec<Missing> = failed.collect();
    if let Some(first) = failed.first() {
        let lines: Vec<&str> = failed.iter().map(|missing| missing.what.as_str()).collect();
        let failure = Failure::new(format!("{}; nothing was sent", lines.join("\n       ")));
        return Err(failure.hint(first.hint));
    }
    for (index, receiver) in connected.iter().enumerate() {
        if let Some(twin) = connected[..index].iter().find(|twin| twin.address == receiver.address)
        {
            return Err(Failure::new(format!(
                "{} and {} are the same receiver ({}); nothing was sent",
                twin.shown, receiver.shown, receiver.address
            ))
            .hint("name each receiver once"));
        }
    }
    Ok(connected)
}

struct Missing {
    what: String,
    hint: &'static str,
}

fn connect(receiver: &Endpoint, patience: Duration) -> Result<Connected, Missing> {
    let shown = &receiver.shown;
    let addresses: Vec<SocketAddr> = (receiver.host.as_str(), receiver.port)
        .to_socket_addrs()
        .map_err(|error| Missing {
            what: format!("cannot resolve {shown}: {error}"),
            hint: "check the name; an address in numbers needs no resolving",
        })?
        .collect();
    let deadline = Instant::now() + patience;
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        match TcpStream::connect_timeout(&address, left.max(Duration::from_millis(1))) {
            Ok(stream) => return greet(receiver, stream, address, deadline, patience),
            Err(error) => refused = error,
        }
    }
    Err(Missing {
        what: format!("cannot connect to {shown}: {refused}"),
        hint: match refused.kind() {
            io::ErrorKind::ConnectionRefused => {
                "start \"ringwire recv\" there; without --listen it takes connections of its own \
                 host only"
            }
            _ => "check the address, and that no firewall is on the way",
        },
    })
}

fn greet(
    receiver: &Endpoint,
    mut stream: TcpStream,
    address: SocketAddr,
    deadline: Instant,
    patience: Duration,
) -> Result<Connected, Missing> {
    let shown = &receiver.shown;
    let broke = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Missing {
            what: format!(
                "{shown} took the connection, but did not greet within {}",
                show_duration(patience)
            ),
            hint: "it may be serving other senders, or be something else than \"ringwire recv\"; \
                   --patience waits longer",
        },
        _ => Missing {
            what: format!("{shown} broke the connection before it greeted: {error}"),
            hint: "is \"ringwire recv\" what listens at that port?",
        },
    };
    // The last frames of a transfer are small and must not wait for an acknowledgement.
    stream.set_nodelay(true).map_err(broke)?;
    stream.write_all(&protocol::greeting(Role::Sender)).map_err(broke)?;
    let mut greeting = [0; GREETING_BYTES];
    let mut came = 0;
    loop {
        let judged = protocol::check_greeting(&greeting[..came], Role::Receiver);
        if judged.map_err(|wrong| Missing {
            what: format!("cannot send to {shown}: {wrong}"),
            hint: wrong.hint().unwrap_or("check the address"),
        })? {
            break;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).map_err(broke)?;
        match stream.read(&mut greeting[came..]) {
            Ok(0) => return Err(broke(io::ErrorKind::UnexpectedEof.into())),
            Ok(bytes) => came += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broke(error)),
        }
    }
    stream.set_read_timeout(None).map_err(broke)?;
    Ok(Connected { shown: shown.clone(), stream, address })
}
