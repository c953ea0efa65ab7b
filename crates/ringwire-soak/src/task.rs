//! What the first process tells a sending one when it starts it: words in an environment variable.

use std::env;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::engine::Engine;

const VARIABLE: &str = "RINGWIRE_SOAK_TASK";

/// Where the first process listens for one engine's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) streams_v4: u16,
    pub(crate) streams_v6: Option<u16>,
    pub(crate) datagrams_v4: u16,
    pub(crate) datagrams_v6: Option<u16>,
}

impl Ports {
    pub(crate) fn streams(self, v6: bool) -> SocketAddr {
        match self.streams_v6 {
            Some(port) if v6 => (Ipv6Addr::LOCALHOST, port).into(),
            _ => (Ipv4Addr::LOCALHOST, self.streams_v4).into(),
        }
    }

    /// Where datagrams come from, and where they go.
    pub(crate) fn datagrams(self, v6: bool) -> (SocketAddr, SocketAddr) {
        match self.datagrams_v6 {
            Some(port) if v6 => {
                ((Ipv6Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, port).into())
            }
            _ => ((Ipv4Addr::LOCALHOST, 0).into(), (Ipv4Addr::LOCALHOST, self.datagrams_v4).into()),
        }
    }
}

/// What a sending process is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    /// Of all its random choices.
    pub(crate) seed: u64,
    /// The id of its first connection; that of a connection has the process in its upper half.
    pub(crate) next_conn: u64,
    pub(crate) ports: Ports,
    pub(crate) engine: Engine,
}

impl Task {
    /// The task of process number `process` in a soak of seed `soak_seed`.
    pub(crate) fn new(soak_seed: u64, process: u64, ports: Ports, engine: Engine) -> Task {
        let seed = soak_seed.wrapping_add(process.wrapping_mul(0x2545_F491_4F6C_DD1D));
        Task { seed, next_conn: process << 32, ports, engine }
    }

    /// The process that a connection belongs to.
    pub(crate) fn process_of(conn: u64) -> u64 {
        conn >> 32
    }

    /// The name and the value of the variable that has it.
    pub(crate) fn to_variable(self) -> (&'static str, String) {
        (VARIABLE, self.to_words())
    }

    /// The task of this process, if it is a sending one.
    pub(crate) fn from_variable() -> Option<Task> {
        Task::from_words(&env::var(VARIABLE).ok()?)
    }

    fn to_words(self) -> String {
        let Ports { streams_v4, streams_v6, datagrams_v4, datagrams_v6 } = self.ports;
        let (streams_v6, datagrams_v6) =
            (streams_v6.unwrap_or_default(), datagrams_v6.unwrap_or_default());
        let (Task { seed, next_conn, .. }, engine) = (self, self.engine.name());
        format!(
            "{engine} {seed} {next_conn} {streams_v4} {streams_v6} {datagrams_v4} {datagrams_v6}"
        )
    }

    fn from_words(words: &str) -> Option<Task> {
        let (engine, numbers) = words.split_once(' ')?;
        let numbers: Vec<u64> = numbers.split(' ').map_while(|word| word.parse().ok()).collect();
        let [seed, next_conn, ports @ ..] = &numbers[..] else { return None };
        let ports: Vec<u16> = ports.iter().map_while(|port| u16::try_from(*port).ok()).collect();
        let [streams_v4, streams_v6, datagrams_v4, datagrams_v6] = ports[..] else { return None };
        let some = |port: u16| (port > 0).then_some(port);
        let (streams_v6, datagrams_v6) = (some(streams_v6), some(datagrams_v6));
        let ports = Ports { streams_v4, streams_v6, datagrams_v4, datagrams_v6 };
        let engine = Engine::from_name(engine)?;
        Some(Task { seed: *seed, next_conn: *next_conn, ports, engine })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_survives_its_words() {
        let ports = Ports {
            streams_v4: 1,
            streams_v6: None,
            datagrams_v4: u16::MAX,
            datagrams_v6: Some(3),
        };
        let task = Task::new(u64::MAX, 7, ports, Engine::MsgZerocopy);
        assert_eq!(Task::from_words(&task.to_words()), Some(task));
        assert_eq!(Task::process_of(task.next_conn + 12), 7);
        for words in ["", "copy", "copy 1 2 3 4 5", "carrier-pigeon 1 2 3 4 5 6"] {
            assert_eq!(Task::from_words(words), None, "{words}");
        }
    }
}
