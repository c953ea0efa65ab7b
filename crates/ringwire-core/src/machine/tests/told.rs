//! What events bring back to the caller: the socket, the tag, how far a stream of quiet payloads
//! has been accepted, and that its end is out.

use super::*;

fn quiet(tag: u64) -> SendOptions {
    SendOptions::new().quiet().tag(tag)
}

#[test]
fn every_event_of_a_payload_names_its_socket_and_its_tag() {
    let mut play = Play::stream();
    let other = attach(&mut play.core, Kind::Stream);
    let socks = [play.sock, other, play.sock, other];
    for (tag, sock) in (10..).zip(socks) {
        let payload = vec![0; 100].into_payload();
        play.core.send(sock, payload, SendOptions::new().tag(tag)).unwrap();
    }
    let _ = play.core.turn(Deadline::Now, &mut play.events).unwrap();
    // A request a socket. The second is answered first, and the first fails half-way.
    let tokens = [0, 1].map(|request| play.core.engine.seen[request].token);
    let result =
        |token, outcome| Completion::Result { token, outcome, notification_follows: false };
    play.core.engine.completions.push(result(tokens[1], Ok(200)));
    play.core.engine.completions.push(result(tokens[0], Ok(150)));
    let _ = play.core.turn(Deadline::Now, &mut play.events).unwrap();
    let _ = play.core.turn(Deadline::Now, &mut play.events).unwrap();
    let token = play.core.engine.seen[2].token;
    play.core.engine.completions.push(result(token, Err(Errno::PIPE)));
    let _ = play.core.turn(Deadline::Now, &mut play.events).unwrap();
    let told: Vec<_> = play
        .events
        .drain()
        .filter_map(|event| match event {
            Event::Sent { sock, tag, .. } => Some(("sent", sock, tag)),
            Event::Failed { sock, tag, .. } => Some(("failed", sock, tag)),
            Event::Released { sock, tag, .. } => Some(("released", sock, tag)),
            _ => None,
        })
        .collect();
    let [one, two] = [play.sock, other];
    let expected = [
        ("sent", two, 11),
        ("sent", two, 13),
        ("released", two, 11),
        ("released", two, 13),
        ("sent", one, 10),
        ("released", one, 10),
        ("failed", one, 12),
        ("released", one, 12),
    ];
    assert_eq!(told, expected);
}

#[test]
fn markers_of_sockets_are_not_counted_as_events() {
    let mut events = Events::new();
    let sock = |slot| Socket(Key::new(slot, 0));
    let id = crate::words::ids::PayloadId(Key::new(0, 0));
    for slot in [0, 0, 1, 0] {
        events.of(sock(slot));
        events.sent(id, 0, 1);
    }
    events.of(sock(3));
    assert_eq!((events.len(), events.drain().size_hint()), (4, (4, Some(4))));
    events.of(sock(3));
    assert!(events.is_empty(), "nothing was told of that socket");
    // Half read, and then appended to what waits already.
    let mut others = Events::new();
    for slot in [7, 7, 8] {
        others.of(sock(slot));
        others.sent(id, 0, 1);
    }
    assert!(matches!(others.pop(), Some(Event::Sent { sock: of, .. }) if of == sock(7)));
    events.of(sock(9));
    events.sent(id, 0, 1);
    events.take_over(&mut others);
    assert_eq!((events.len(), others.len()), (3, 0));
    let told: Vec<_> = events
        .drain()
        .map(|event| match event {
            Event::Sent { sock: Socket(key), .. } => key.slot(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [9, 7, 8]);
}

#[test]
fn quiet_payloads_tell_how_far_they_were_accepted_if_one_asks() {
    let mut play = Play::stream();
    for tag in 0..8 {
        let options = if tag % 4 == 3 { quiet(tag).tell_accepted() } else { quiet(tag) };
        play.core.send(play.sock, vec![0; 100].into_payload(), options).unwrap();
    }
    assert!(play.turn().is_empty());
    // Half of the fourth is missing yet.
    assert!(play.result(Ok(350), true).is_empty());
    assert!(play.turn().is_empty());
    // One event for all that is accepted at once: that of the newest payload that asked.
    assert_eq!(play.result(Ok(450), true), ["accepted 7 800"]);
    assert!(play.notify(0, Usage::ZeroCopy).is_empty());
    assert!(play.notify(1, Usage::ZeroCopy).is_empty());
    let payload = vec![0; 10].into_payload();
    play.core.send(play.sock, payload, quiet(9).tell_accepted()).unwrap();
    play.turn();
    assert_eq!(play.result(Ok(10), false), ["accepted 9 810"]);
    play.assert_at_rest();
}

#[test]
fn quiet_datagrams_tell_how_far_they_were_accepted_if_one_asks() {
    let mut play = Play::datagrams();
    for tag in 0..2 {
        let options = quiet(tag).tell_accepted();
        play.core.send(play.sock, vec![0; 100].into_payload(), options).unwrap();
    }
    play.turn();
    let mut told = Vec::new();
    for _ in 0..play.core.engine.seen.len() {
        told.extend(play.result(Ok(play.core.engine.seen[0].bytes as u32), false));
    }
    assert_eq!(told.last().map(String::as_str), Some("accepted 1 200"));
    play.assert_at_rest();
}

#[test]
fn the_end_of_a_stream_is_told_of_when_it_is_sent() {
    let mut play = Play::stream();
    play.send(100);
    play.core.machine.finish(play.sock).unwrap();
    assert!(play.turn().is_empty(), "something waits before it");
    assert_eq!(play.result(Ok(100), false), ["sent 0 100", "released 0 Unknown", "finished"]);
    assert!(play.turn().is_empty(), "told of once");
}

#[test]
fn the_end_of_a_broken_stream_is_not_told_of() {
    let mut play = Play::stream();
    play.send(100);
    play.core.machine.finish(play.sock).unwrap();
    play.turn();
    let told = play.result(Err(Errno::PIPE), false);
    assert_eq!(told, ["broken 32", "failed 0 0 32", "released 0 Unknown"]);
}
