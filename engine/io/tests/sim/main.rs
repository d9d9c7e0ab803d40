//! Contract of the simulated driver: what a world promises to those who test with it, above all which states a crash
//! may leave and which it may not. Most tests go over many seeds and ask two things: what must hold holds for each
//! of them, and what may happen happens for one, so that a model that forgives too much fails as one that forgives
//! too little.

mod crash;
mod determinism;
mod disk;
mod faults;
mod fuzz;
mod kill;
mod net;
mod support;
mod world;
