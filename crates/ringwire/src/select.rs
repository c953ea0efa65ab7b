//! Before step 1 of a send: which engine a ring gets, by trying one after the other.
//!
//! Nothing is concluded from a version: what counts is whether the kernel, the host's switches and
//! filters, and the limits of this user let it be made now. Each step down is recorded with what
//! was refused and who can change it. Invariant: what was asked for by name is got, or is an error.
//!
//! An engine is made here and nowhere else, which is this crate's one unsafe call: what the kernel
//! may read depends on who drives it.
#![allow(unsafe_code)]

use ringwire_core::{EngineChoice, Error};
use ringwire_sys::{AnyEngine, EngineKind, EngineSetup};

/// An engine, and why it is not a better one.
#[derive(Debug)]
pub(crate) struct Selected {
    pub(crate) engine: AnyEngine,
    /// Engines that were tried and are not to be had, a line each.
    pub(crate) steps_down: Vec<String>,
    /// What else is to be known of the choice.
    pub(crate) asked_for: Option<String>,
}

/// # Errors
/// Those of the last engine tried: the one asked for, or `copy`.
pub(crate) fn select(choice: EngineChoice, setup: &EngineSetup) -> Result<Selected, Error> {
    let (tried, last): (&[EngineKind], _) = match choice {
        EngineChoice::Uring => (&[], EngineKind::Uring),
        EngineChoice::MsgZerocopy => (&[], EngineKind::MsgZerocopy),
        EngineChoice::Copy => (&[], EngineKind::Copy),
        _ => (&[EngineKind::Uring, EngineKind::MsgZerocopy], EngineKind::Copy),
    };
    let (mut engine, mut steps_down) = (None, Vec::new());
    for &kind in tried {
        match set_up(kind, setup) {
            Ok(set_up) => {
                engine = Some(set_up);
                break;
            }
            Err(error) => step_down(&mut steps_down, kind, &error)?,
        }
    }
    let engine = engine.map_or_else(|| set_up(last, setup), Ok)?;
    let by_name = matches!(choice, EngineChoice::MsgZerocopy | EngineChoice::Copy);
    let asked_for = by_name.then(|| format!("the engine {} was asked for", engine.kind()));
    Ok(Selected { engine, steps_down, asked_for })
}

fn set_up(kind: EngineKind, setup: &EngineSetup) -> Result<AnyEngine, Error> {
    // SAFETY: what is selected goes into a ring, whose `Driver` hands it requests of one machine
    // and that machine its completions, and is the ring's own: nobody else gets at either. In a
    // child of `fork` a ring refuses whatever would reach it. Who vouches for datagrams has given
    // his word to `RingBuilder::vouch_for_datagrams`, in the same terms.
    unsafe { AnyEngine::new(kind, setup) }
}

/// Records that an engine is not to be had.
///
/// # Errors
/// If that is not the host's refusal, but a mistake.
fn step_down(steps: &mut Vec<String>, engine: EngineKind, error: &Error) -> Result<(), Error> {
    // A filter may answer with whatever error it likes.
    if !matches!(error, Error::Unsupported { .. } | Error::Io { .. }) {
        return Err(error.clone());
    }
    tracing::info!(%engine, %error, "an engine is not to be had here");
    steps.push(format!("not {engine}: {error}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use ringwire_core::{Errno, TaskRun};

    use super::*;

    #[test]
    fn steps_down_are_recorded_in_order_with_who_can_change_them() {
        let refused = Error::Unsupported { feature: "io_uring".into(), needs: "somebody".into() };
        let mut steps = Vec::new();
        step_down(&mut steps, EngineKind::Uring, &refused).unwrap();
        step_down(&mut steps, EngineKind::MsgZerocopy, &Error::io("setsockopt", Errno::OPNOTSUPP))
            .unwrap();
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[0], "not uring: io_uring is not available: somebody");
        assert!(steps[1].starts_with("not msg-zerocopy: setsockopt failed: "), "{}", steps[1]);
    }

    #[test]
    fn a_mistake_is_no_reason_to_step_down() {
        let mut steps = Vec::new();
        let misuse = Error::Misuse("a mistake".into());
        assert_eq!(step_down(&mut steps, EngineKind::Uring, &misuse), Err(misuse));
        assert!(steps.is_empty());
    }

    #[test]
    fn what_is_asked_for_by_name_is_got() {
        let setup = EngineSetup {
            task_run: TaskRun::Deferred,
            completion_entries: None,
            sockets: 16,
            datagrams_are_vouched_for: false,
        };
        for (choice, kind, name) in [
            (EngineChoice::MsgZerocopy, EngineKind::MsgZerocopy, "msg-zerocopy"),
            (EngineChoice::Copy, EngineKind::Copy, "copy"),
        ] {
            let selected = select(choice, &setup).unwrap();
            assert_eq!(selected.engine.kind(), kind);
            assert_eq!(selected.asked_for, Some(format!("the engine {name} was asked for")));
            assert!(selected.steps_down.is_empty());
        }
    }
}
