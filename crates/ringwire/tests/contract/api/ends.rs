//! The end of a ring: who waits, who is aborted, what is left to the kernel.

use super::*;
use crate::support::AT_ONCE;

/// What the report says, in its order: released, failed, aborted, leaked, leaked bytes, unsent.
fn said(report: Report) -> (u64, u64, u64, u64, u64, u64) {
    (
        report.released_payloads,
        report.failed_payloads,
        report.aborted_sockets,
        report.leaked_payloads,
        report.leaked_bytes,
        report.unsent_payloads,
    )
}

fn rings() -> impl Iterator<Item = (Driver, String)> {
    BOTH_TASK_RUNS.into_iter().flat_map(|task_run| {
        WAYS.map(|(thresholds, way)| {
            let builder = builder().task_run(task_run).thresholds(thresholds);
            (Driver::build(builder), format!("{way}, {task_run:?}"))
        })
    })
}

#[test]
fn shutdown_waits_for_everything() {
    let Some(()) = runs_here("shutdown_waits_for_everything") else { return };
    for on_deadline in [OnDeadline::Abort, OnDeadline::Leave] {
        for (mut driver, what) in rings() {
            let (sock, far, _stuck) = attach_stuck(&mut driver);
            driver.send(sock, noise(1, 1000));
            let (other, other_far) = attach_tcp(&mut driver);
            (1..=3).for_each(|at| _ = driver.send(other, noise(at, 100)));
            let heard = [hear(far), hear(other_far)];
            let report = driver.ring.shutdown(Some(PATIENCE), on_deadline);
            assert_eq!(said(report), (5, 0, 0, 0, 0, 0), "{what}");
            let [heard, other_heard] = heard.map(|heard| heard.join().unwrap());
            let mut expected = noise(0, TOO_MUCH);
            expected.extend(noise(1, 1000));
            assert_same(&heard.bytes, &expected);
            assert_eq!((heard.error, other_heard.error), (None, None), "{what}");
            let expected: Vec<u8> = (1..=3).flat_map(|at| noise(at, 100)).collect();
            assert_same(&other_heard.bytes, &expected);
        }
    }
}

#[test]
fn shutdown_aborts_who_does_not_take() {
    let Some(()) = runs_here("shutdown_aborts_who_does_not_take") else { return };
    for (mut driver, what) in rings() {
        let (sock, far, _stuck) = attach_stuck(&mut driver);
        driver.send(sock, noise(1, 1000));
        driver.send(sock, noise(2, 2000));
        // What the other is sent is released, so nothing of the other's is in flight.
        let (other, other_far) = attach_tcp(&mut driver);
        let taken = driver.send(other, noise(3, 100));
        driver.until_released(&[taken]);
        let patience = Duration::from_millis(50);
        let started = Instant::now();
        let report = driver.ring.shutdown(Some(patience), OnDeadline::Abort);
        assert!(started.elapsed() >= patience, "{what}: it does not wait");
        assert_eq!(said(report), (3, 3, 1, 0, 0, 0), "{what}");
        let heard = hear(far).join().unwrap();
        assert_eq!(heard.error, Some(ErrorKind::ConnectionReset), "{what}");
        assert_same(&heard.bytes, &noise(0, TOO_MUCH)[..heard.bytes.len()]);
        let other_heard = hear(other_far).join().unwrap();
        assert_eq!((other_heard.bytes, other_heard.error), (noise(3, 100), None), "{what}");
    }
}

#[test]
fn shutdown_leaves_to_the_kernel_what_it_has() {
    let Some(()) = runs_here("shutdown_leaves_to_the_kernel_what_it_has") else { return };
    for (mut driver, what) in rings() {
        let (sock, far, _stuck) = attach_stuck(&mut driver);
        driver.send(sock, noise(1, 1000));
        driver.send(sock, noise(2, 2000));
        let before = ringwire::leaked();
        let report = driver.ring.shutdown(AT_ONCE, OnDeadline::Leave);
        // A copy that waits outside of the kernel is nobody's to read.
        let lent = ENGINE.waits_in_the_kernel || ENGINE.zero_copy && what.starts_with("zero copy");
        let expected = if lent { (0, 0, 0, 1, 1_048_576, 2) } else { (0, 0, 0, 0, 0, 3) };
        assert_eq!(said(report), expected, "{what}");
        let after = ringwire::leaked();
        assert!(after.bytes >= before.bytes + expected.4, "{what}");
        let heard = hear(far).join().unwrap();
        assert!(!heard.bytes.is_empty(), "{what}: what was accepted is delivered");
        assert_same(&heard.bytes, &noise(0, TOO_MUCH)[..heard.bytes.len()]);
    }
}
