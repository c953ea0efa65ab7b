//! A payload is moved into `send` and comes back with its `Released`, not before.

use ringwire::{Ring, Socket};

fn send_twice(ring: &mut Ring, sock: Socket) {
    let mut payload = vec![0; 100];
    ring.send(sock, payload).unwrap();
    payload[0] = 1;
    ring.send(sock, payload).unwrap();
}

fn main() {}
