//! What does not compile, and what the compiler then says: the rules that make sends sound are held
//! by types, and whoever breaks one should read which rule, and what to do instead.
//!
//! Each case is a program in `ui/` and the messages that it must produce beside it. After a change
//! that is meant, `TRYBUILD=overwrite cargo test -p ringwire --test compile_fail` writes them anew.

#[test]
fn programs_that_break_the_rules_do_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/write_to_a_frozen_block.rs");
    cases.compile_fail("tests/ui/send_a_borrowed_slice.rs");
    cases.compile_fail("tests/ui/send_a_foreign_as_ref.rs");
    cases.compile_fail("tests/ui/send_a_block_that_is_not_frozen.rs");
    cases.compile_fail("tests/ui/move_a_ring_to_another_thread.rs");
    cases.compile_fail("tests/ui/write_to_a_payload_that_is_lent.rs");
}

/// The same calls as they are meant do compile, as a part of this program.
#[path = "ui/as_it_is_meant.rs"]
mod as_it_is_meant;

#[test]
fn a_program_that_keeps_the_rules_compiles_and_runs() {
    as_it_is_meant::main();
}
