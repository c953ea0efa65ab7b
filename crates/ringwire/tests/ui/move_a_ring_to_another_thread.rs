//! The kernel ties a ring to the thread that built it. (Its builder may move.)

use ringwire::Ring;

fn main() {
    let ring = Ring::builder().build().unwrap();
    std::thread::spawn(move || drop(ring));
}
