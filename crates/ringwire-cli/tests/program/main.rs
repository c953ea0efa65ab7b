//! The program as its users meet it: run as a process, with real files and sockets.

mod common;
mod confine;

mod addresses;
mod bench;
mod directories;
mod doctor;
mod fuse;
mod hostile_receiver;
mod hostile_sender;
mod interrupt;
mod leftovers;
mod pauses;
mod progress;
mod resources;
mod situations;
mod sources;
mod stdout;
mod transfer;
mod usage;
