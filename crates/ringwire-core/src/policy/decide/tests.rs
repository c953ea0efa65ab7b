//! The policy's decisions, in literals.

use super::*;

const PLAIN: Facts = Facts {
    bytes: 1 << 20,
    registered: false,
    datagram: None,
    kernel_has: true,
    engine_copies: false,
    reports: true,
    copied_bytes: 0,
    headroom: u64::MAX,
    force: None,
    unpinnable: false,
};
const MS: Duration = Duration::from_millis(1);

fn route(facts: Facts) -> (Route, Reason) {
    decide(facts, &RouteState::default(), Thresholds::default(), Instant::now())
}

#[test]
fn thresholds_hold_at_their_edge() {
    let normal = |bytes| route(Facts { bytes, ..PLAIN });
    assert_eq!(normal(16_383), (Route::Copy, Reason::Small));
    assert_eq!(normal(16_384), (Route::ZeroCopy, Reason::Best));
    let registered = |bytes| route(Facts { bytes, registered: true, ..PLAIN });
    assert_eq!(registered(4_095), (Route::Copy, Reason::Small));
    assert_eq!(registered(4_096), (Route::ZeroCopyRegistered, Reason::Best));
}

#[test]
fn nothing_at_all_is_never_pinned() {
    let thresholds = Thresholds { registered_bytes: 0, normal_bytes: 0 };
    let facts = Facts { bytes: 0, ..PLAIN };
    let decided = decide(facts, &RouteState::default(), thresholds, Instant::now());
    assert_eq!(decided, (Route::Copy, Reason::Small));
}

#[test]
fn datagrams_that_the_kernel_would_copy_are_copied_by_us() {
    let datagram = |pieces, over_mtu| {
        let datagram = Some(Datagram { pieces, over_mtu, train: false, train_refused: false });
        route(Facts { registered: true, bytes: 8_000, datagram, ..PLAIN })
    };
    assert_eq!(datagram(17, false), (Route::ZeroCopyRegistered, Reason::Best));
    assert_eq!(datagram(18, false), (Route::Copy, Reason::ManyPieces));
    assert_eq!(datagram(1, true), (Route::Copy, Reason::OverMtu));
}

#[test]
fn a_train_of_many_pieces_is_copied_for_what_made_it_so_long() {
    let now = Instant::now();
    let train = |state: &RouteState, thresholds, train| {
        let datagram = Some(Datagram { pieces: 18, over_mtu: false, train, train_refused: false });
        let facts = Facts { registered: true, bytes: 60_000, datagram, ..PLAIN };
        decide(facts, state, thresholds, now).1
    };
    let usual = Thresholds::default();
    let mut state = RouteState::default();
    assert_eq!(train(&state, usual, true), Reason::ManyPieces);
    let all = Thresholds { registered_bytes: u64::MAX, normal_bytes: u64::MAX };
    assert_eq!(train(&state, all, true), Reason::Small);
    state.on_error(Route::ZeroCopyRegistered, Errno::NOBUFS, now);
    assert_eq!(train(&state, usual, true), Reason::MemlockShort);
    assert_eq!(train(&state, usual, false), Reason::ManyPieces, "one alone is what it is");
    let state = RouteState { path: Path::local(now), ..RouteState::default() };
    assert_eq!(train(&state, usual, true), Reason::PathCopies);
    let datagram =
        Some(Datagram { pieces: 18, over_mtu: false, train: true, train_refused: false });
    assert_eq!(route(Facts { unpinnable: true, datagram, ..PLAIN }).1, Reason::Unpinnable);
}

#[test]
fn trains_of_small_fragments_are_copied_and_longer_for_it() {
    let train = |bytes, pieces| {
        let datagram =
            Some(Datagram { pieces, over_mtu: false, train: true, train_refused: false });
        route(Facts { registered: true, bytes, datagram, ..PLAIN })
    };
    assert_eq!(train(8_704, 17), (Route::ZeroCopyRegistered, Reason::Best), "512 bytes each");
    assert_eq!(train(8_703, 17), (Route::Copy, Reason::Small));
    assert_eq!(train(38_400, 128), (Route::Copy, Reason::Small));
    assert_eq!(train(64_400, 17), (Route::ZeroCopyRegistered, Reason::Best));
    // Who wants everything without a copy gets it.
    let all = Thresholds { registered_bytes: 0, normal_bytes: 0 };
    assert_eq!(fragment_bytes_min(all), 0);
    assert_eq!(fragment_bytes_min(Thresholds::default()), 512);
}

#[test]
fn a_single_datagram_is_copied_for_its_refused_train_only_if_it_is_small() {
    let single = |bytes| {
        let datagram = Datagram { pieces: 2, over_mtu: false, train: false, train_refused: true };
        route(Facts { registered: true, bytes, datagram: Some(datagram), ..PLAIN })
    };
    assert_eq!(single(1_400), (Route::Copy, Reason::TrainRefused));
    assert_eq!(single(8_000), (Route::ZeroCopyRegistered, Reason::Best));
}

#[test]
fn pages_are_counted_unless_everything_is_copied() {
    let now = Instant::now();
    let copies = |state: &RouteState, registered_bytes, normal_bytes| {
        copies_batches(state, Thresholds { registered_bytes, normal_bytes }, 0, now)
    };
    let mut state = RouteState::default();
    assert!(!copies(&state, 4_096, u64::MAX), "registered ones are not");
    assert!(copies(&state, 65_536, 65_536), "no packet is so large");
    state.on_error(Route::ZeroCopy, Errno::NOMEM, now);
    assert!(!copies(&state, 4_096, 16_384));
    state.on_error(Route::ZeroCopyRegistered, Errno::NOMEM, now);
    assert!(copies(&state, 4_096, 16_384));
    state = RouteState::default();
    state.on_error(Route::ZeroCopy, Errno::OPNOTSUPP, now);
    assert!(copies(&state, 0, 0));
}

#[test]
fn a_refusing_socket_is_copied_for_good() {
    let now = Instant::now();
    let mut state = RouteState::default();
    assert!(state.on_error(Route::ZeroCopy, Errno::OPNOTSUPP, now));
    let later = now + Duration::from_secs(3600);
    let decided = decide(PLAIN, &state, Thresholds::default(), later);
    assert_eq!(decided, (Route::Copy, Reason::SocketRefuses));
}

#[test]
fn unregistered_memory_is_copied_where_it_does_not_fit_and_registered_memory_is_not() {
    // 64 KiB are counted with 16 + 2 pages.
    let at = |headroom, registered| route(Facts { bytes: 65_536, headroom, registered, ..PLAIN });
    assert_eq!(at(73_727, false), (Route::Copy, Reason::MemlockShort));
    assert_eq!(at(73_728, false), (Route::ZeroCopy, Reason::Best));
    assert_eq!(at(0, true), (Route::ZeroCopyRegistered, Reason::Best));
}

#[test]
fn memory_that_the_kernel_lacks_pauses_registered_requests_and_backs_off() {
    let start = Instant::now();
    let mut state = RouteState::default();
    let decide_at = |state: &RouteState, ms: u32, registered| {
        let facts = Facts { registered, ..PLAIN };
        decide(facts, state, Thresholds::default(), start + MS * ms).0
    };
    assert!(state.on_error(Route::ZeroCopyRegistered, Errno::NOMEM, start));
    assert_eq!(decide_at(&state, 49, true), Route::Copy);
    assert_eq!(decide_at(&state, 49, false), Route::ZeroCopy);
    assert_eq!(decide_at(&state, 50, true), Route::ZeroCopyRegistered);
    assert!(state.on_error(Route::ZeroCopyRegistered, Errno::NOMEM, start + MS * 50));
    assert_eq!(decide_at(&state, 149, true), Route::Copy);
    assert_eq!(decide_at(&state, 150, true), Route::ZeroCopyRegistered);
    for _ in 0..20 {
        state.on_error(Route::ZeroCopyRegistered, Errno::NOBUFS, start);
    }
    assert_eq!(decide_at(&state, 2_999, true), Route::Copy);
    assert_eq!(decide_at(&state, 3_000, true), Route::ZeroCopyRegistered);
    state.on_success(Route::ZeroCopyRegistered);
    assert_eq!(decide_at(&state, 1, true), Route::ZeroCopyRegistered);
}

#[test]
fn a_path_that_copies_is_copied_to_unless_the_threshold_is_zero() {
    let now = Instant::now();
    let state = RouteState { path: Path::local(now), ..RouteState::default() };
    let decided = |facts, thresholds| decide(facts, &state, thresholds, now + MS * 99);
    let usual = Thresholds::default();
    assert_eq!(decided(PLAIN, usual), (Route::Copy, Reason::PathCopies));
    assert_eq!(decided(Facts { bytes: 100, ..PLAIN }, usual), (Route::Copy, Reason::Small));
    let short = Facts { headroom: 0, ..PLAIN };
    assert_eq!(decided(short, usual), (Route::Copy, Reason::PathCopies));
    let all = Thresholds { registered_bytes: 0, normal_bytes: 0 };
    assert_eq!(decided(PLAIN, all), (Route::ZeroCopy, Reason::Best));
    assert!(wants_report(&state, usual) && !wants_report(&state, all));
    // 64 times the request have been copied, and the pause is over.
    let later = Facts { copied_bytes: 64 << 20, registered: true, ..PLAIN };
    let decided = decide(later, &state, usual, now + MS * 100);
    assert_eq!(decided, (Route::ZeroCopyRegistered, Reason::Probe));
    let unheard = Facts { reports: false, ..later };
    let decided = decide(unheard, &state, usual, now + MS * 100);
    assert_eq!(decided, (Route::Copy, Reason::PathCopies));
    let short = Facts { registered: false, headroom: 0, ..later };
    let decided = decide(short, &state, usual, now + MS * 100);
    assert_eq!(decided, (Route::Copy, Reason::MemlockShort));
}

#[test]
fn trains_of_a_path_that_copies_are_as_long_as_copies_may_be_until_a_probe_is_due() {
    let now = Instant::now();
    let state = RouteState { path: Path::local(now), ..RouteState::default() };
    let copies = |copied_bytes, ms: u32| {
        copies_batches(&state, Thresholds::default(), copied_bytes, now + MS * ms)
    };
    assert!(copies(0, 100) && copies(4_194_303, 100) && copies(u64::MAX, 99));
    assert!(!copies(4_194_304, 100), "64 packets of 64 KiB");
}

#[test]
fn a_forced_route_is_taken_whatever_was_learned() {
    let now = Instant::now();
    let mut state = RouteState { path: Path::local(now), ..RouteState::default() };
    state.on_error(Route::ZeroCopyRegistered, Errno::NOMEM, now);
    let decided = |state: &RouteState, facts: Facts, force| {
        let facts = Facts { force: Some(force), ..facts };
        let decided = decide(facts, state, Thresholds::default(), now);
        (decided, fails(Some(force), decided))
    };
    let tiny = Facts { bytes: 1, headroom: 0, ..PLAIN };
    let zero_copy = ((Route::ZeroCopy, Reason::Forced), None);
    assert_eq!(decided(&state, tiny, Force::ZeroCopy), zero_copy);
    let registered = Facts { registered: true, ..tiny };
    let zero_copy = ((Route::ZeroCopyRegistered, Reason::Forced), None);
    assert_eq!(decided(&state, registered, Force::ZeroCopy), zero_copy);
    let fresh = RouteState::default();
    assert_eq!(decided(&fresh, PLAIN, Force::Copy), ((Route::Copy, Reason::Forced), None));
    let empty = Facts { bytes: 0, ..PLAIN };
    assert_eq!(decided(&fresh, empty, Force::ZeroCopy), ((Route::Copy, Reason::Small), None));

    let refused = Some(Errno::OPNOTSUPP);
    let lacking = Facts { kernel_has: false, ..PLAIN };
    let told = decided(&fresh, lacking, Force::ZeroCopy);
    assert_eq!(told, ((Route::Copy, Reason::KernelLacks), refused));
    state.on_error(Route::ZeroCopy, Errno::OPNOTSUPP, now);
    let told = decided(&state, PLAIN, Force::ZeroCopy);
    assert_eq!(told, ((Route::Copy, Reason::SocketRefuses), refused));
    assert_eq!(decided(&state, PLAIN, Force::Copy), ((Route::Copy, Reason::Forced), None));
}

#[test]
fn a_socket_whose_notifications_are_in_doubt_is_copied_for_good() {
    let now = Instant::now();
    let mut state = RouteState::default();
    assert!(state.on_error(Route::ZeroCopy, Errno::ALREADY, now));
    let later = now + Duration::from_secs(3600);
    let decided = decide(PLAIN, &state, Thresholds::default(), later);
    assert_eq!(decided, (Route::Copy, Reason::UnsureNotifications));
}

/// What becomes of plain memory so many milliseconds later.
fn since(start: Instant) -> impl Fn(&RouteState, u32) -> (Route, Reason) {
    move |state, ms| decide(PLAIN, state, Thresholds::default(), start + MS * ms)
}

#[test]
fn a_socket_whose_notifications_are_in_doubt_for_now_is_copied_for_a_while() {
    let start = Instant::now();
    let mut state = RouteState::default();
    let decide_at = since(start);
    assert!(state.on_error(Route::ZeroCopy, Errno::BUSY, start));
    assert_eq!(decide_at(&state, 49), (Route::Copy, Reason::UnsureNotifications));
    assert_eq!(decide_at(&state, 50), (Route::ZeroCopy, Reason::Best));
    // Again, and it is for longer.
    assert!(state.on_error(Route::ZeroCopy, Errno::BUSY, start + MS * 50));
    assert_eq!(decide_at(&state, 149), (Route::Copy, Reason::UnsureNotifications));
    // And then for another reason.
    assert!(state.on_error(Route::ZeroCopy, Errno::NOBUFS, start + MS * 150));
    assert_eq!(decide_at(&state, 349), (Route::Copy, Reason::MemlockShort));
}

#[test]
fn an_engine_that_copies_is_said_before_all_else() {
    let facts = Facts { kernel_has: false, bytes: 1, engine_copies: true, ..PLAIN };
    assert_eq!(route(facts), (Route::Copy, Reason::EngineCopies));
}

#[test]
fn no_room_for_notifications_pauses_unregistered_memory_and_memlock_does_not() {
    let start = Instant::now();
    let mut state = RouteState::default();
    let decide_at = since(start);
    assert!(state.on_error(Route::ZeroCopy, Errno::NOMEM, start));
    assert_eq!(decide_at(&state, 0), (Route::ZeroCopy, Reason::Best));
    assert!(state.on_error(Route::ZeroCopy, Errno::NOBUFS, start));
    assert_eq!(decide_at(&state, 49), (Route::Copy, Reason::MemlockShort));
    assert_eq!(decide_at(&state, 50), (Route::ZeroCopy, Reason::Best));
    assert!(state.on_error(Route::ZeroCopy, Errno::NOBUFS, start + MS * 50));
    assert_eq!(decide_at(&state, 149), (Route::Copy, Reason::MemlockShort));
    state.on_success(Route::ZeroCopyRegistered);
    assert_eq!(decide_at(&state, 149), (Route::Copy, Reason::MemlockShort));
    state.on_success(Route::ZeroCopy);
    assert_eq!(decide_at(&state, 51), (Route::ZeroCopy, Reason::Best));
}

#[test]
fn other_errors_are_not_the_policys() {
    let mut state = RouteState::default();
    assert!(!state.on_error(Route::ZeroCopy, Errno::PIPE, Instant::now()));
}

#[test]
fn registered_memory_is_copied_too_when_the_kernel_refused_just_that() {
    let start = Instant::now();
    let facts = Facts { registered: true, ..PLAIN };
    let mut state = RouteState::default();
    assert!(state.on_error(Route::ZeroCopyRegistered, Errno::NOMEM, start));
    let at = |ms| start + Duration::from_millis(ms);
    let decided = decide(facts, &state, Thresholds::default(), at(49));
    assert_eq!(decided, (Route::Copy, Reason::MemlockShort));
    let decided = decide(facts, &state, Thresholds::default(), at(50));
    assert_eq!(decided, (Route::ZeroCopyRegistered, Reason::Best));
}

#[test]
fn a_refusal_is_named_as_long_as_it_holds() {
    let start = Instant::now();
    let (zero_copy, registered) = (Route::ZeroCopy, Route::ZeroCopyRegistered);
    let mut state = RouteState::default();
    let named = |state: &RouteState, route, ms| steps_down(state, route, start + MS * ms);
    assert_eq!(named(&state, zero_copy, 0), None);
    state.on_error(zero_copy, Errno::NOBUFS, start);
    assert_eq!(named(&state, zero_copy, 49), Some(Reason::MemlockShort));
    assert_eq!(named(&state, zero_copy, 50), None);
    assert_eq!(named(&state, registered, 0), None);
    state.on_error(registered, Errno::NOMEM, start);
    assert_eq!(named(&state, registered, 99), Some(Reason::MemlockShort));
    state.on_error(registered, Errno::OPNOTSUPP, start);
    assert_eq!(named(&state, zero_copy, 1_000_000), Some(Reason::SocketRefuses));
}
