//! What makes the kernel let go of a connection's memory, and what does not (K12); who waits for
//! the end of one (K54), and for its bytes (K58).

use crate::support::needs::{Feature, needs};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ringwire_wire::Family;
use rustix::io::Errno;
use socket2::SockRef;

use crate::rig::{FILLER, Memory, Request, Ring, TOO_MUCH, shut_pair};
use crate::support::{narrow_pair, read_exactly, sleeps, wait_until};

/// Who else holds the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    Duplicate,
    RegisteredFile,
    ParkedRequest,
}

const HOLDERS: [Holder; 4] =
    [Holder::Nobody, Holder::Duplicate, Holder::RegisteredFile, Holder::ParkedRequest];

/// A connection with 8 KiB that its peer will not take, and with a holder.
struct Held {
    ring: Ring,
    near: TcpStream,
    far: TcpStream,
    duplicate: Option<TcpStream>,
}

fn hold(holder: Holder) -> Held {
    let memory = Memory::new(TOO_MUCH);
    let mut ring = Ring::new();
    let (near, far) = shut_pair();
    let request = Request::send(&near, memory.span(0..8192)).data(1);
    let mut duplicate = None;
    match holder {
        Holder::Nobody => ring.accepted(request),
        Holder::Duplicate => {
            duplicate = Some(near.try_clone().unwrap());
            ring.accepted(request);
        }
        Holder::RegisteredFile => {
            ring.0.submitter().register_files(&[near.as_raw_fd()]).unwrap();
            ring.accepted(request.file(0));
        }
        Holder::ParkedRequest => {
            ring.accepted(request);
            ring.parks(Request::send(&near, memory.all()).flags(libc::MSG_WAITALL).data(2));
        }
    }
    ring.silent_while_held(&near);
    Held { ring, near, far, duplicate }
}

/// All completions that are to come: the notification of what was accepted, and, if a request is
/// parked, the part of it that was sent, and its notification.
fn let_go(ring: &mut Ring, holder: Holder) {
    let parked = holder == Holder::ParkedRequest;
    let mut seen: Vec<_> = (0..if parked { 3 } else { 1 }).map(|_| ring.next()).collect();
    ring.silent();
    seen.sort_by_key(|done| (done.data, done.flags));
    assert_eq!((seen[0].data, seen[0].result), (1, 0), "{holder:?}");
    if parked {
        assert_eq!((seen[1].data, seen[2].data), (2, 2));
        let part = seen[1].result;
        assert!((1..TOO_MUCH as i32).contains(&part), "{part} bytes of the parked request");
    }
}

#[test]
fn dissolving_a_connection_releases_everything_at_once() {
    let Some(()) = needs("dissolving_a_connection_releases_everything_at_once", Feature::SendZc)
    else {
        return;
    };
    for holder in HOLDERS {
        let Held { mut ring, near, mut far, duplicate } = hold(holder);
        rustix::net::connect_unspec(&near).unwrap();
        // Nothing was read and nothing acknowledged.
        let_go(&mut ring, holder);
        let mut heard = Vec::new();
        let error = far.read_to_end(&mut heard).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{holder:?}");
        assert!(heard.len() < FILLER, "{holder:?}");
        drop((near, duplicate));
    }
}

/// A thread that waits to read on a connection, or to write.
#[test]
fn a_connection_in_which_somebody_waits_is_taken_apart_or_he_has_to_be_woken_first() {
    for reads in [true, false] {
        let (near, far) = narrow_pair(Family::V4);
        let mut waiter = near.try_clone().unwrap();
        let (tell, told) = mpsc::channel();
        let waiting = thread::spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            match reads {
                true => waiter.read(&mut [0; 1]).map(|read| assert_eq!(read, 0)),
                false => waiter.write_all(&vec![0; TOO_MUCH]),
            }
        });
        let id = told.recv().unwrap();
        wait_until("it waits", || sleeps(id));
        match rustix::net::connect_unspec(&near) {
            Ok(()) => println!("at once, whether or not he reads: {reads}"),
            Err(why) => {
                assert_eq!(why, Errno::BUSY);
                near.shutdown(Shutdown::Read).unwrap();
                if reads {
                    wait_until("he is gone", || waiting.is_finished());
                    // Of which the peer hears nothing.
                    far.set_nonblocking(true).unwrap();
                    let nothing = (&far).read(&mut [0; 1]).unwrap_err();
                    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
                } else {
                    // That may have woken him, to wait on.
                    wait_until("he waits on", || sleeps(id));
                    assert_eq!(rustix::net::connect_unspec(&near), Err(Errno::BUSY));
                    near.shutdown(Shutdown::Both).unwrap();
                }
                wait_until("apart", || rustix::net::connect_unspec(&near).is_ok());
            }
        }
        let ended = waiting.join().unwrap();
        assert!(ended.is_err() || reads, "{ended:?}");
    }
}

#[test]
fn closing_with_linger_0_releases_nothing_while_somebody_holds_the_socket() {
    let Some(()) = needs(
        "closing_with_linger_0_releases_nothing_while_somebody_holds_the_socket",
        Feature::SendZc,
    ) else {
        return;
    };
    for holder in HOLDERS {
        let Held { mut ring, near, far, duplicate } = hold(holder);
        SockRef::from(&near).set_linger(Some(Duration::ZERO)).unwrap();
        drop(near);
        if holder != Holder::Nobody {
            ring.silent();
            // A reset by the peer ends it for all holders.
            SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
            drop(far);
        }
        let_go(&mut ring, holder);
        drop(duplicate);
    }
}

#[test]
fn shutdown_and_close_release_nothing_and_lose_nothing() {
    let Some(()) = needs("shutdown_and_close_release_nothing_and_lose_nothing", Feature::SendZc)
    else {
        return;
    };
    let Held { mut ring, near, mut far, .. } = hold(Holder::Nobody);
    near.shutdown(Shutdown::Both).unwrap();
    ring.silent_while_held(&near);
    drop(near);
    ring.silent();
    read_exactly(&mut far, FILLER + 8192).unwrap();
    assert_eq!(far.read(&mut [0; 1]).unwrap(), 0, "the end");
    ring.notification_of(1);
    ring.silent();
}

/// Longer than any test.
const LINGER: Duration = Duration::from_secs(3600);

/// Runs `last`, which drops the last reference to a connection, and says whether it waits for the
/// peer.
fn waits_for(mut far: TcpStream, what: &str, last: impl FnOnce() + Send + 'static) -> bool {
    let (tell, told) = mpsc::channel();
    let closer = thread::spawn(move || {
        tell.send(rustix::thread::gettid()).unwrap();
        last();
    });
    let closer_id = told.recv().unwrap();
    wait_until(what, || closer.is_finished() || sleeps(closer_id));
    let waits = !closer.is_finished();
    read_exactly(&mut far, FILLER).unwrap();
    // Not one `read`: work of a ring can interrupt the thread that made it, on 6.1.
    assert_eq!(far.read_to_end(&mut Vec::new()).unwrap(), 0, "{what}: the end");
    drop(far);
    closer.join().unwrap();
    waits
}

#[test]
fn whoever_drops_the_last_reference_to_a_lingering_socket_waits_for_its_peer() {
    let Some(()) = needs(
        "whoever_drops_the_last_reference_to_a_lingering_socket_waits_for_its_peer",
        Feature::SendZc,
    ) else {
        return;
    };
    let lingering = || {
        let (near, far) = shut_pair();
        SockRef::from(&near).set_linger(Some(LINGER)).unwrap();
        (near, far)
    };
    let (near, far) = lingering();
    let duplicate = near.try_clone().unwrap();
    // Not the last one.
    drop(duplicate);
    assert!(waits_for(far, "close", move || drop(near)));

    let (near, far) = lingering();
    let ring = Ring::new();
    ring.0.submitter().register_files(&[near.as_raw_fd()]).unwrap();
    drop(near);
    let waits = waits_for(far, "a ring's table of files", move || {
        assert_eq!(ring.0.submitter().register_files_update(0, &[-1]).unwrap(), 1);
    });
    // Older kernels drop the file later, on another thread.
    println!("a change of a table of files waits: {waits}");

    // Nobody does if the option was taken back in time, and the peer gets all the same.
    let (near, mut far) = lingering();
    SockRef::from(&near).set_linger(None).unwrap();
    drop(near);
    read_exactly(&mut far, FILLER).unwrap();
    assert_eq!(far.read(&mut [0; 1]).unwrap(), 0, "the end");
}
