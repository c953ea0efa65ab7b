//! Sockets with `SO_LINGER`: whoever closes one waits for its peer, but the ring never does.

use super::*;
use crate::support::AT_ONCE;

use crate::support::wait_until;
use socket2::SockRef;

/// Longer than any test.
const LINGER: Duration = Duration::from_secs(3600);
/// More than the peer's buffer takes.
const FILLER: usize = 100_000;

/// A connection that lingers, whose peer has not acknowledged all of [`FILLER`] bytes, and has room
/// for as much again twice.
fn lingering() -> (TcpStream, TcpStream) {
    let (mut near, far) = narrow_pair(Family::V4);
    let socket = SockRef::from(&near);
    socket.set_send_buffer_size(212_992).unwrap();
    socket.set_linger(Some(LINGER)).unwrap();
    near.write_all(&noise(0, FILLER)).unwrap();
    (near, far)
}

/// A peer that reads so many bytes, and nothing more before it is told to.
struct ReadsLater {
    tell: mpsc::Sender<()>,
    peer: thread::JoinHandle<Option<Vec<u8>>>,
}

impl ReadsLater {
    fn after(bytes: usize, mut far: TcpStream) -> ReadsLater {
        let (tell, told) = mpsc::channel();
        let peer = thread::spawn(move || {
            let mut heard = read_exactly(&mut far, bytes).unwrap();
            // If nobody tells it, it goes away, and who waits for it goes on.
            told.recv_timeout(PATIENCE).ok()?;
            let rest = hear(far).join().unwrap();
            assert_eq!(rest.error, None);
            heard.extend(rest.bytes);
            Some(heard)
        });
        ReadsLater { tell, peer }
    }

    /// What it heard in all. Fails if it had to go away before this.
    #[track_caller]
    fn go_on(self, what: &str) -> Vec<u8> {
        let _ = self.tell.send(());
        self.peer.join().unwrap().unwrap_or_else(|| panic!("{what}: somebody waited for the peer"))
    }
}

/// How a ring comes to close a socket.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    FinishAndDrop,
    Drop,
    Shutdown,
    Refused,
}

#[test]
fn nobody_waits_for_a_socket_that_lingers() {
    let Some(()) = runs_here("nobody_waits_for_a_socket_that_lingers") else { return };
    for end in [End::Close, End::FinishAndDrop, End::Drop, End::Shutdown, End::Refused] {
        for task_run in BOTH_TASK_RUNS {
            let sockets = if matches!(end, End::Refused) { 0 } else { 1 };
            let limits = limits(|limits| limits.sockets = sockets);
            let mut driver = Driver::build(builder().task_run(task_run).limits(limits));
            let (near, far) = lingering();
            let peer = ReadsLater::after(0, far);
            let attached = driver.ring.attach(near);
            match end {
                End::Close => {
                    driver.ring.close(attached.unwrap()).unwrap();
                    let _ = driver.turn(AT_ONCE);
                    assert_eq!(driver.ring.stats().sockets, 0);
                }
                End::FinishAndDrop => {
                    driver.ring.finish(attached.unwrap()).unwrap();
                    let _ = driver.turn(AT_ONCE);
                    drop(driver);
                }
                End::Drop => drop(driver),
                End::Shutdown => _ = driver.ring.shutdown(AT_ONCE, OnDeadline::Leave),
                End::Refused => assert!(matches!(attached, Err(Error::LimitReached { .. }))),
            }
            assert_same(&peer.go_on(&format!("{end:?}")), &noise(0, FILLER));
        }
    }
}

/// With what is lent still out, and behind it what waits.
#[test]
fn a_ring_that_is_dropped_in_mid_send_does_not_wait_either() {
    let Some(()) = runs_here("a_ring_that_is_dropped_in_mid_send_does_not_wait_either") else {
        return;
    };
    for (thresholds, way) in WAYS {
        let mut driver = Driver::build(builder().thresholds(thresholds));
        let (near, far) = lingering();
        let peer = ReadsLater::after(0, far);
        let sock = driver.ring.attach(near).unwrap();
        let sent = driver.send(sock, noise(1, 10_000));
        driver.until("sent", |driver| driver.fate(sent).sent.is_some());
        let _ = driver.send(sock, noise(2, TOO_MUCH));
        let _ = driver.turn(AT_ONCE);
        drop(driver);
        let heard = peer.go_on(way);
        let expected = [noise(0, FILLER), noise(1, 10_000), noise(2, TOO_MUCH)].concat();
        assert_same(&heard, &expected[..heard.len()]);
        assert!(heard.len() >= FILLER + 10_000, "{way}");
    }
}

#[test]
fn no_time_at_all_still_resets_and_who_else_has_the_socket_sees_the_option_gone() {
    let Some(()) =
        runs_here("no_time_at_all_still_resets_and_who_else_has_the_socket_sees_the_option_gone")
    else {
        return;
    };
    every_way(|driver, what| {
        for (linger, after) in [(LINGER, None), (Duration::ZERO, Some(Duration::ZERO))] {
            let (near, far) = lingering();
            let duplicate = near.try_clone().unwrap();
            SockRef::from(&near).set_linger(Some(linger)).unwrap();
            let sock = driver.ring.attach(near).unwrap();
            driver.ring.close(sock).unwrap();
            let _ = driver.turn(AT_ONCE);
            assert_eq!(driver.ring.stats().sockets, 0);
            let seen = SockRef::from(&duplicate).linger().unwrap();
            if seen == Some(LINGER) {
                SockRef::from(&duplicate).set_linger(None).unwrap();
            }
            drop(duplicate);
            assert_eq!(seen, after, "{what}");
            if after.is_some() {
                // A table of files may let go later, on another thread; and who reads before that
                // gets all there is, and its end.
                wait_until("reset", || {
                    let fds = &mut [PollFd::new(&far, PollFlags::empty())];
                    poll(fds, Some(&Timespec::default())) == Ok(1)
                });
            }
            let heard = hear(far).join().unwrap();
            let error = after.map(|_| ErrorKind::ConnectionReset);
            assert_eq!(heard.error, error, "{what}");
        }
    });
}

/// What is given back is untouched; and if its new owner has closed it when the last payload comes
/// back, the ring has the last descriptor, and does not wait for it.
#[test]
fn a_detached_socket_keeps_its_option_and_nobody_waits_for_it() {
    let Some(()) = runs_here("a_detached_socket_keeps_its_option_and_nobody_waits_for_it") else {
        return;
    };
    every_way(|driver, what| {
        let (near, far) = lingering();
        let sock = driver.ring.attach(near).unwrap();
        let sent = driver.send(sock, noise(1, 10_000));
        driver.until("sent", |driver| driver.fate(sent).sent.is_some());
        let mut theirs = TcpStream::from(driver.ring.detach(sock).unwrap());
        theirs.write_all(&noise(2, FILLER)).unwrap();
        assert_eq!(SockRef::from(&theirs).linger().unwrap(), Some(LINGER), "{what}");
        if driver.ring.stats().sockets == 0 {
            // Theirs is the last one, and waits if it is left to.
            SockRef::from(&theirs).set_linger(None).unwrap();
        }
        drop(theirs);
        let peer = ReadsLater::after(FILLER + 10_000, far);
        driver.until_released(&[sent]);
        driver.until("let go", |driver| driver.ring.stats().sockets == 0);
        let expected = [noise(0, FILLER), noise(1, 10_000), noise(2, FILLER)].concat();
        assert_same(&peer.go_on(what), &expected);
    });
}
