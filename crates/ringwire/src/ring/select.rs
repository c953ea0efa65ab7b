//! Before step 1 of a send: which engine a ring gets, by trying one after the other.
//!
//! Nothing is concluded from a version: what counts is whether the kernel, the host's switches and
//! filters, and the limits of this user let it be made now. Each step down is recorded with what
//! was refused and who can change it. Invariant: what was asked for by name is got, or is an error.

use crate::config::{EngineChoice, TaskRun};
use crate::engine::any::AnyEngine;
use crate::engine::epoll::Epoll;
use crate::engine::uring::Uring;
use crate::error::Error;

/// An engine, and why it is not a better one.
pub(super) struct Selected {
    pub engine: AnyEngine,
    /// Engines that were tried and are not to be had, a line each.
    pub steps_down: Vec<String>,
    /// What else is to be known of the choice.
    pub asked_for: Option<String>,
}

/// # Errors
/// Those of the last engine tried: the one asked for, or `copy`.
pub(super) fn select(
    choice: EngineChoice,
    task_run: TaskRun,
    completion_entries: Option<u32>,
    sockets: u32,
    datagrams_are_vouched_for: bool,
) -> Result<Selected, Error> {
    let msg_zerocopy = || Epoll::new(true, datagrams_are_vouched_for).map(boxed_epoll);
    let copy = || Epoll::new(false, false).map(boxed_epoll);
    let uring = || Uring::new(task_run, completion_entries, sockets).map(boxed_uring);
    let (mut steps_down, mut asked_for) = (Vec::new(), None);
    let engine = match choice {
        EngineChoice::Auto => match uring() {
            Ok(engine) => engine,
            Err(error) => {
                step_down(&mut steps_down, "uring", &error)?;
                match msg_zerocopy() {
                    Ok(engine) => engine,
                    Err(error) => {
                        step_down(&mut steps_down, "msg-zerocopy", &error)?;
                        copy()?
                    }
                }
            }
        },
        EngineChoice::Uring => uring()?,
        EngineChoice::MsgZerocopy => msg_zerocopy()?,
        EngineChoice::Copy => copy()?,
    };
    if matches!(choice, EngineChoice::MsgZerocopy | EngineChoice::Copy) {
        asked_for = Some(format!("the engine {} was asked for", engine.name()));
    }
    Ok(Selected { engine, steps_down, asked_for })
}

fn boxed_uring(engine: Uring) -> AnyEngine {
    AnyEngine::Uring(Box::new(engine))
}

fn boxed_epoll(engine: Epoll) -> AnyEngine {
    AnyEngine::Epoll(Box::new(engine))
}

/// Records that an engine is not to be had.
///
/// # Errors
/// If that is not the host's refusal, but a mistake.
fn step_down(steps: &mut Vec<String>, engine: &str, error: &Error) -> Result<(), Error> {
    // A filter may answer with whatever error it likes.
    if !matches!(error, Error::Unsupported { .. } | Error::Io { .. }) {
        return Err(error.clone());
    }
    tracing::info!(engine, %error, "an engine is not to be had here");
    steps.push(format!("not {engine}: {error}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Errno;

    #[test]
    fn steps_down_are_recorded_in_order_with_who_can_change_them() {
        let refused = crate::sys::ring::refused(&std::io::Error::from_raw_os_error(libc::EPERM));
        let mut steps = Vec::new();
        step_down(&mut steps, "uring", &refused).unwrap();
        step_down(&mut steps, "msg-zerocopy", &Error::io("setsockopt", Errno::NOTSUP)).unwrap();
        assert_eq!(steps.len(), 2);
        assert_eq!(
            steps[0],
            "not uring: io_uring is not available: the host forbids it: kernel.io_uring_disabled \
             is set, or a seccomp filter or security module stands before it"
        );
        assert!(steps[1].starts_with("not msg-zerocopy: setsockopt failed: "), "{}", steps[1]);
    }

    #[test]
    fn a_mistake_is_no_reason_to_step_down() {
        let mut steps = Vec::new();
        let misuse = Error::Misuse("a mistake".into());
        assert_eq!(step_down(&mut steps, "uring", &misuse), Err(misuse));
        assert!(steps.is_empty());
    }

    #[test]
    fn what_is_asked_for_by_name_is_got() {
        for (choice, name) in
            [(EngineChoice::MsgZerocopy, "msg-zerocopy"), (EngineChoice::Copy, "copy")]
        {
            let selected = select(choice, TaskRun::Deferred, None, 16, false).unwrap();
            assert_eq!(selected.engine.name(), name);
            assert_eq!(selected.asked_for, Some(format!("the engine {name} was asked for")));
            assert!(selected.steps_down.is_empty());
        }
    }
}
