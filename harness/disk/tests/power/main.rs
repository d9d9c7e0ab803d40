//! The contract of the disk, on the real kernel: FUSE, loop devices, ext4. Needs root; each test skips loudly without.
//!
//! `disk` drives the library, `command` the program. Every test ends by looking for what its disk may have left.

mod command;
mod disk;
mod strict;
mod support;
