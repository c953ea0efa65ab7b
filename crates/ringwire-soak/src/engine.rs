//! The engines to soak, and which process has which.
//!
//! The only file that knows the core's names for them.

use ringwire::{EngineChoice, Error, Ring};

/// An engine of the core. Its name is that on the command line, in the result, and between the
/// processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// io_uring
    Uring,
    /// MSG_ZEROCOPY and epoll
    MsgZerocopy,
    /// sends that copy
    Copy,
}

impl Engine {
    pub(crate) const ALL: [Engine; 3] = [Engine::Uring, Engine::MsgZerocopy, Engine::Copy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::Uring => "uring",
            Engine::MsgZerocopy => "msg-zerocopy",
            Engine::Copy => "copy",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Engine> {
        Engine::ALL.into_iter().find(|engine| engine.name() == name)
    }

    pub(crate) fn choice(self) -> EngineChoice {
        match self {
            Engine::Uring => EngineChoice::Uring,
            Engine::MsgZerocopy => EngineChoice::MsgZerocopy,
            Engine::Copy => EngineChoice::Copy,
        }
    }

    /// Whether this host has it.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn probe(self) -> Result<(), Error> {
        Ring::builder().engine(self.choice()).build().map(drop)
    }
}

/// The engines of a soak: processes have them in turn.
///
/// There is at least one.
#[derive(Clone, Debug)]
pub(crate) struct Rotation(Vec<Engine>);

impl Rotation {
    pub(crate) fn of_one(engine: Engine) -> Rotation {
        Rotation(vec![engine])
    }

    /// `None` if there is no engine.
    pub(crate) fn new(engines: Vec<Engine>) -> Option<Rotation> {
        (!engines.is_empty()).then_some(Rotation(engines))
    }

    pub(crate) fn engines(&self) -> &[Engine] {
        &self.0
    }

    /// The place in [`Rotation::engines`] of that which process number `process` has.
    pub(crate) fn place(&self, process: u64) -> usize {
        (process % self.0.len() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for engine in Engine::ALL {
            let value = engine.to_possible_value().expect("none is hidden");
            assert_eq!(value.get_name(), engine.name());
            assert_eq!(Engine::from_name(engine.name()), Some(engine));
        }
        assert_eq!(Engine::from_name("auto"), None);
    }

    #[test]
    fn processes_take_turns() {
        let rotation = Rotation::new(vec![Engine::Uring, Engine::Copy]).expect("two");
        assert_eq!([0, 1, 2, 3].map(|process| rotation.place(process)), [0, 1, 0, 1]);
        assert!(Rotation::new(Vec::new()).is_none());
    }
}
